// TensorFlowLiteSwift 2.17, by tensorflow/tensorflow, tensorflow/lite/swift/Sources. The model's file holds the outputs;
// what was put in is kept.
@_exported import Foundation

public protocol Delegate: AnyObject {}

public final class MetalDelegate: Delegate {
    public struct Options: Equatable, Hashable {
        public var isPrecisionLossAllowed = false
        public init() {}
    }

    public init(options: Options = Options()) {}
}

public struct Tensor {
    public let data: Data
}

public final class Interpreter {
    public struct Options: Equatable, Hashable {
        public var threadCount: Int? = nil
        public var isXNNPackEnabled: Bool = false
        public init() {}
    }

    public let options: Options?
    public private(set) var input = Data()
    private let outputs: Data
    private var allocated = false

    public init(modelPath: String, options: Options? = nil, delegates: [Delegate]? = nil) throws {
        self.options = options
        outputs = try Data(contentsOf: URL(fileURLWithPath: modelPath))
    }

    public func allocateTensors() throws {
        allocated = true
    }

    @discardableResult
    public func copy(_ data: Data, toInputAt index: Int) throws -> Tensor {
        guard allocated else { throw CocoaError(.featureUnsupported) }
        input = data
        return Tensor(data: data)
    }

    public func invoke() throws {}

    public func output(at index: Int) throws -> Tensor {
        guard !input.isEmpty else { throw CocoaError(.featureUnsupported) }
        return Tensor(data: outputs)
    }
}

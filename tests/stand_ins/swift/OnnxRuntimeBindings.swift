// ONNX Runtime's Objective-C interface as Swift sees it, by microsoft/onnxruntime, objectivec/include. The model's file
// holds the outputs.
@_exported import Foundation

public enum ORTLoggingLevel: Int32 {
    case verbose, info, warning, error, fatal
}

public enum ORTTensorElementDataType: Int32 {
    case undefined, float, int8, uInt8, int32, uInt32, int64, uInt64, string
}

open class ORTEnv: NSObject {
    public init(loggingLevel: ORTLoggingLevel) throws {}
}

open class ORTSessionOptions {
    public init() throws {}
    open func setIntraOpNumThreads(_ intraOpNumThreads: Int32) throws {}
    open func appendCoreMLExecutionProvider(withOptionsV2 providerOptions: [AnyHashable: Any]) throws {}
}

open class ORTRunOptions: NSObject {}

open class ORTValue: NSObject {
    private let data: NSMutableData

    public init(tensorData: NSMutableData, elementType: ORTTensorElementDataType, shape: [NSNumber]) throws {
        let bytes = elementType == .float ? 4 : 1
        guard tensorData.length == shape.reduce(bytes, { $0 * $1.intValue }) else { throw CocoaError(.featureUnsupported) }
        data = tensorData
    }

    open func tensorData() throws -> NSMutableData {
        return data
    }
}

open class ORTSession: NSObject {
    private let outputs: NSMutableData

    public init(env: ORTEnv, modelPath path: String, sessionOptions: ORTSessionOptions?) throws {
        outputs = NSMutableData(data: try Data(contentsOf: URL(fileURLWithPath: path)))
    }

    open func run(
        withInputs inputs: [String: ORTValue], outputNames: Set<String>, runOptions: ORTRunOptions?
    ) throws -> [String: ORTValue] {
        guard inputs["images"] != nil else { throw CocoaError(.featureUnsupported) }
        let value = try ORTValue(
            tensorData: outputs, elementType: .float, shape: [1, NSNumber(value: outputs.length / 4)])
        return Dictionary(uniqueKeysWithValues: outputNames.map { ($0, value) })
    }
}

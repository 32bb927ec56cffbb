// AVFoundation with what it brings along of Core Media and Core Video, as far as bundles use them.
@_exported import CoreGraphics
@_exported import Dispatch

public final class CVBuffer {
    /// Of the stand-in alone.
    public let image: CGImage
    init(_ image: CGImage) { self.image = image }
}
public typealias CVImageBuffer = CVBuffer
public typealias CVPixelBuffer = CVBuffer
public final class CMSampleBuffer {
    let pixels: CVImageBuffer
    init(_ image: CGImage) { pixels = CVBuffer(image) }
}

public let kCVPixelBufferPixelFormatTypeKey: CFString = "PixelFormatType"
public let kCVPixelFormatType_32BGRA: UInt32 = 0x4247_5241

public func CMSampleBufferGetImageBuffer(_ sbuf: CMSampleBuffer) -> CVImageBuffer? {
    return sbuf.pixels
}

public struct AVMediaType: Hashable {
    public static let video = AVMediaType()
}

open class AVCaptureConnection: NSObject {
    open var videoRotationAngle: CGFloat = 0

    open func isVideoRotationAngleSupported(_ videoRotationAngle: CGFloat) -> Bool {
        return true
    }
}

open class AVCaptureInput: NSObject {}

open class AVCaptureDeviceInput: AVCaptureInput {
    public init(device: AVCaptureDevice) throws {}
}

open class AVCaptureDevice: NSObject {
    open class func `default`(for mediaType: AVMediaType) -> AVCaptureDevice? {
        return AVCaptureDevice()
    }

    open class func requestAccess(
        for mediaType: AVMediaType, completionHandler handler: @escaping @Sendable (Bool) -> Void
    ) {
        handler(true)
    }

    @available(iOS 17.0, *)
    open class RotationCoordinator: NSObject {
        public init(device: AVCaptureDevice, previewLayer: CALayer?) {}
        open private(set) var videoRotationAngleForHorizonLevelCapture: CGFloat = 90
    }
}

open class AVCaptureOutput: NSObject {}

public protocol AVCaptureVideoDataOutputSampleBufferDelegate: AnyObject {
    func captureOutput(
        _ output: AVCaptureOutput, didOutput sampleBuffer: CMSampleBuffer, from connection: AVCaptureConnection)
}

open class AVCaptureVideoDataOutput: AVCaptureOutput {
    open var videoSettings: [String: Any]! = [:]
    open var alwaysDiscardsLateVideoFrames = true

    var delegate: AVCaptureVideoDataOutputSampleBufferDelegate?

    open func setSampleBufferDelegate(
        _ sampleBufferDelegate: AVCaptureVideoDataOutputSampleBufferDelegate?, queue: DispatchQueue?
    ) {
        delegate = sampleBufferDelegate
    }
}

open class AVCaptureSession: NSObject {
    public struct Preset: Hashable {
        public static let vga640x480 = Preset()
        public static let hd1280x720 = Preset()
    }

    /// Of the stand-in alone: what the camera sees.
    public static var frame: CGImage?
    private var outputs: [AVCaptureOutput] = []

    open var sessionPreset = Preset()
    open func canAddInput(_ input: AVCaptureInput) -> Bool { return true }
    open func canAddOutput(_ output: AVCaptureOutput) -> Bool { return true }
    open func addInput(_ input: AVCaptureInput) {}
    open func addOutput(_ output: AVCaptureOutput) { outputs.append(output) }
    open func beginConfiguration() {}
    open func commitConfiguration() {}

    /// Two frames: the first one finds the connection in another angle than the phone's.
    open func startRunning() {
        let connection = AVCaptureConnection()
        for _ in 0..<2 {
            for case let output as AVCaptureVideoDataOutput in outputs {
                output.delegate?.captureOutput(
                    output, didOutput: CMSampleBuffer(AVCaptureSession.frame!), from: connection)
            }
        }
    }

    open func stopRunning() {}
}

open class CALayer: NSObject {
    open var frame = CGRect.zero
    open func addSublayer(_ layer: CALayer) {}
}

public struct AVLayerVideoGravity: Hashable {
    public static let resizeAspectFill = AVLayerVideoGravity()
}

open class AVCaptureVideoPreviewLayer: CALayer {
    public init(session: AVCaptureSession) {}
    open var videoGravity = AVLayerVideoGravity()
}

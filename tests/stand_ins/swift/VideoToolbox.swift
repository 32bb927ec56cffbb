import AVFoundation

@discardableResult
public func VTCreateCGImageFromCVPixelBuffer(
    _ pixelBuffer: CVPixelBuffer, options: CFDictionary?, imageOut: UnsafeMutablePointer<CGImage?>
) -> Int32 {
    imageOut.pointee = pixelBuffer.image
    return 0
}

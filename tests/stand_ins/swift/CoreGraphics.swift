// Core Graphics, as far as bundles use it. Core Foundation's types are what Swift bridges them to.
@_exported import Foundation

public typealias CFString = String
public typealias CFURL = URL
public typealias CFDictionary = [String: Any]

public final class CGImage {
    public let width: Int
    public let height: Int
    let rgba: [UInt8]

    /// Of the stand-in alone: an image of these pixels, four bytes each.
    public init(rgba: [UInt8], width: Int, height: Int) {
        self.rgba = rgba
        self.width = width
        self.height = height
    }

    public func copy(colorSpace: CGColorSpace) -> CGImage? {
        return self
    }
}

public final class CGColorSpace {
    public static let sRGB: CFString = "kCGColorSpaceSRGB"

    public init?(name: CFString) {
        guard name == CGColorSpace.sRGB else { return nil }
    }
}

public enum CGImageAlphaInfo: UInt32 {
    case none = 0
    case noneSkipLast = 5
}

public final class CGContext {
    private let data: UnsafeMutableRawPointer
    private let bytesPerRow: Int

    public init?(
        data: UnsafeMutableRawPointer?, width: Int, height: Int, bitsPerComponent: Int, bytesPerRow: Int,
        space: CGColorSpace, bitmapInfo: UInt32
    ) {
        guard let data, bitsPerComponent == 8, bitmapInfo == CGImageAlphaInfo.noneSkipLast.rawValue else { return nil }
        self.data = data
        self.bytesPerRow = bytesPerRow
    }

    /// The image as it is, over what is there: bundles draw none in another size.
    public func draw(_ image: CGImage, in rect: CGRect) {
        precondition(rect.width == CGFloat(image.width) && bytesPerRow == 4 * image.width)
        let bytes = data.assumingMemoryBound(to: UInt8.self)
        for index in 0..<(image.width * image.height) {
            let alpha = Int(image.rgba[4 * index + 3])
            for colour in 0..<3 {
                let over = Int(image.rgba[4 * index + colour]) * alpha + Int(bytes[4 * index + colour]) * (255 - alpha)
                bytes[4 * index + colour] = UInt8((over + 127) / 255)
            }
        }
    }
}

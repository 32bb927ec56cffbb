@_exported import AVFoundation

@MainActor open class UIView: NSObject {
    open var bounds = CGRect.zero
    open var frame = CGRect.zero
    open var backgroundColor: UIColor?
    public let layer = CALayer()
    open func addSubview(_ view: UIView) {}
}

open class UIColor: NSObject, @unchecked Sendable {
    open class var white: UIColor { return UIColor() }
    open class var black: UIColor { return UIColor() }
}

@MainActor open class UILabel: UIView {
    open var text: String?
    open var numberOfLines = 1
    open var textColor: UIColor?
}

@MainActor open class UIViewController: NSObject {
    open var view: UIView! = UIView()
    open func viewDidLoad() {}
    open func viewWillAppear(_ animated: Bool) {}
    open func viewDidDisappear(_ animated: Bool) {}
    open func viewDidLayoutSubviews() {}
}

"""ONNX files: the deployment graph's structure through tf2onnx, fused operators, weights streamed into place."""





"""ONNX files: the deployment graph's structure through tf2onnx, fused operators, weights streamed into place."""

from vit_export.onnx.int8 import write_int8_onnx
from vit_export.onnx.write import DEFAULT_OPSET, MAX_OPSET, MIN_OPSET, write_onnx

__all__ = ["DEFAULT_OPSET", "MAX_OPSET", "MIN_OPSET", "write_int8_onnx", "write_onnx"]

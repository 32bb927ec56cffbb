"""What a .tflite or .onnx file says of itself, whoever wrote it, told without loading its weights."""

"""TFLite: structure from the converter, weights streamed in float32 or float16, int8 by AI Edge Quantizer."""

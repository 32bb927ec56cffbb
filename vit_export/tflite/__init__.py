"""TFLite: structure from the converter, weights streamed, float16 and int8 by AI Edge Quantizer."""

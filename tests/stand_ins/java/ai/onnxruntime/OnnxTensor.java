package ai.onnxruntime;

import java.nio.Buffer;
import java.nio.ByteBuffer;
import java.nio.FloatBuffer;

public class OnnxTensor extends OnnxTensorLike {
    final Buffer values;
    final long[] shape;

    OnnxTensor(Buffer values, long[] shape) {
        this.values = values;
        this.shape = shape;
    }

    public static OnnxTensor createTensor(OrtEnvironment env, FloatBuffer data, long[] shape) throws OrtException {
        return new OnnxTensor(data, shape);
    }

    public static OnnxTensor createTensor(OrtEnvironment env, ByteBuffer data, long[] shape, OnnxJavaType type)
            throws OrtException {
        return new OnnxTensor(data, shape);
    }

    public FloatBuffer getFloatBuffer() {
        FloatBuffer copy = FloatBuffer.allocate(values.remaining());
        copy.put(((FloatBuffer) values).duplicate());
        copy.rewind();
        return copy;
    }

    @Override
    public void close() {}
}

package ai.onnxruntime;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.FloatBuffer;
import java.util.Arrays;
import java.util.Map;

/** By microsoft/onnxruntime. The model's file holds the outputs; what was put in is kept. */
public class OrtSession implements AutoCloseable {
    public static byte[] input;
    public static boolean closed;
    private final FloatBuffer outputs;

    OrtSession(ByteBuffer model) {
        outputs = model.order(ByteOrder.nativeOrder()).asFloatBuffer();
        closed = false;
    }

    public static class SessionOptions implements AutoCloseable {
        public SessionOptions() {}

        public void setIntraOpNumThreads(int numThreads) throws OrtException {}

        public void addXnnpack(Map<String, String> providerOptions) throws OrtException {}

        public void addQnn(Map<String, String> providerOptions) throws OrtException {}

        public void addNnapi() throws OrtException {}

        @Override
        public void close() {}
    }

    public static class Result implements AutoCloseable {
        private final OnnxValue value;

        Result(OnnxValue value) {
            this.value = value;
        }

        public OnnxValue get(int index) {
            return value;
        }

        @Override
        public void close() {}
    }

    public Result run(Map<String, ? extends OnnxTensorLike> inputs) throws OrtException {
        OnnxTensor images = (OnnxTensor) inputs.get("images");
        long size = Arrays.stream(images.shape).reduce(1, (a, b) -> a * b);
        if (images.values.remaining() != size) throw new OrtException("Shape " + Arrays.toString(images.shape));
        if (images.values instanceof ByteBuffer) {
            input = new byte[images.values.remaining()];
            ((ByteBuffer) images.values).duplicate().get(input);
        } else {
            ByteBuffer copy = ByteBuffer.allocate(4 * images.values.remaining()).order(ByteOrder.nativeOrder());
            copy.asFloatBuffer().put(((FloatBuffer) images.values).duplicate());
            input = copy.array();
        }
        return new Result(new OnnxTensor(outputs.duplicate(), new long[] {1, outputs.remaining()}));
    }

    @Override
    public void close() throws OrtException {
        closed = true;
    }
}

package org.tensorflow.lite;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;

/** LiteRT 2.1's, by google-ai-edge/LiteRT. The model's file holds the outputs; what was put in is kept. */
public final class Interpreter implements AutoCloseable {
    public static byte[] input;
    public static boolean closed;
    private final ByteBuffer outputs;

    public static class Options {
        public Options setUseXNNPACK(boolean useXNNPACK) {
            return this;
        }

        public Options setNumThreads(int numThreads) {
            return this;
        }
    }

    public Interpreter(ByteBuffer byteBuffer, Options options) {
        if (!byteBuffer.isDirect()) throw new IllegalArgumentException("Model ByteBuffer should be direct");
        outputs = byteBuffer.order(ByteOrder.nativeOrder());
        closed = false;
    }

    public void run(Object input, Object output) {
        if (closed) throw new IllegalStateException("Internal error: The Interpreter has already been closed.");
        ByteBuffer buffer = (ByteBuffer) input;
        Interpreter.input = new byte[buffer.remaining()];
        buffer.get(Interpreter.input);
        Object row = ((Object[]) output)[0];
        outputs.rewind();
        if (row instanceof byte[]) {
            outputs.get((byte[]) row);
        } else {
            outputs.asFloatBuffer().get((float[]) row);
        }
    }

    @Override
    public void close() {
        closed = true;
    }
}

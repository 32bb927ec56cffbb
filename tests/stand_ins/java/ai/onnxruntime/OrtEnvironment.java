package ai.onnxruntime;

import java.nio.ByteBuffer;

public final class OrtEnvironment implements AutoCloseable {
    private static final OrtEnvironment INSTANCE = new OrtEnvironment();

    public static synchronized OrtEnvironment getEnvironment() {
        return INSTANCE;
    }

    public OrtSession createSession(ByteBuffer modelBuffer, OrtSession.SessionOptions options) throws OrtException {
        if (!modelBuffer.isDirect()) throw new OrtException("ByteBuffer is not direct.");
        return new OrtSession(modelBuffer);
    }

    @Override
    public void close() {}
}

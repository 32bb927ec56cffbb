package android.system;

public final class Os {
    private Os() {}

    public static void setenv(String name, String value, boolean overwrite) throws ErrnoException {
        if (name.indexOf('=') >= 0) throw new ErrnoException("setenv", 22);
    }
}

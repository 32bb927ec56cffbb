package android.content.res;

import java.io.File;
import java.io.FileInputStream;
import java.io.IOException;
import java.io.InputStream;

public final class AssetManager {
    private final File folder;

    /** Of the stand-in alone: the files of a folder. */
    public AssetManager(File folder) {
        this.folder = folder;
    }

    public InputStream open(String fileName) throws IOException {
        return new FileInputStream(new File(folder, fileName));
    }

    public AssetFileDescriptor openFd(String fileName) throws IOException {
        return new AssetFileDescriptor(new File(folder, fileName));
    }
}

package android.graphics;

public final class Bitmap {
    private final int[] argb;
    private final int width;
    private final int height;

    /** Of the stand-in alone: an image of these pixels. */
    public Bitmap(int[] argb, int width, int height) {
        this.argb = argb;
        this.width = width;
        this.height = height;
    }

    public int getWidth() {
        return width;
    }

    public int getHeight() {
        return height;
    }

    public void getPixels(int[] pixels, int offset, int stride, int x, int y, int width, int height) {
        if (x < 0 || y < 0 || x + width > this.width || y + height > this.height) throw new IllegalArgumentException();
        for (int row = 0; row < height; row++) {
            System.arraycopy(argb, (y + row) * this.width + x, pixels, offset + row * stride, width);
        }
    }

    /** Turns by what the matrix says, in quarters: the whole image is all that is ever asked for here. */
    public static Bitmap createBitmap(Bitmap source, int x, int y, int width, int height, Matrix m, boolean filter) {
        int[] turned = source.argb;
        for (int quarter = 0; quarter < Math.round(m.degrees / 90); quarter++) {
            int[] from = turned;
            turned = new int[from.length];
            for (int at = 0; at < from.length; at++) {
                turned[(at % width) * height + height - 1 - at / width] = from[at];
            }
            int swap = width;
            width = height;
            height = swap;
        }
        return new Bitmap(turned, width, height);
    }
}

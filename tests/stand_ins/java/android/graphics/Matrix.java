package android.graphics;

public class Matrix {
    float degrees;

    public boolean postRotate(float degrees) {
        this.degrees += degrees;
        return true;
    }
}

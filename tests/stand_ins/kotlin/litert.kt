// google-ai-edge/LiteRT, litert/kotlin/src/main/kotlin/com/google/ai/edge/litert.
package com.google.ai.edge.litert

import android.content.res.AssetManager

enum class Accelerator { NONE, CPU, GPU, NPU }

class TensorBuffer {
    fun writeFloat(data: FloatArray): Unit = throw UnsupportedOperationException("$data")
    fun readFloat(): FloatArray = throw UnsupportedOperationException()
}

class CompiledModel private constructor() : AutoCloseable {
    class Options(vararg val accelerators: Accelerator)

    fun createInputBuffers(signatureIndex: Int = 0): List<TensorBuffer> = listOf<TensorBuffer>().drop(signatureIndex)
    fun createOutputBuffers(signatureIndex: Int = 0): List<TensorBuffer> = listOf<TensorBuffer>().drop(signatureIndex)
    fun run(inputs: List<TensorBuffer>, outputs: List<TensorBuffer>, signatureIndex: Int = 0): Unit =
        throw UnsupportedOperationException("$inputs, $outputs, $signatureIndex")
    override fun close() {}

    companion object {
        fun create(assetManager: AssetManager, assetName: String, options: Options): CompiledModel =
            throw UnsupportedOperationException("$assetManager, $assetName, $options")
    }
}

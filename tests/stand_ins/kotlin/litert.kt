// LiteRT 2.3.0: google-ai-edge/LiteRT at f67457790, litert/kotlin/src/main/kotlin/com/google/ai/edge/litert (Model.kt,
// TensorBuffer.kt, Common.kt). The model's file holds the outputs; what was put in is kept where the Interpreter's is.
package com.google.ai.edge.litert

import android.content.res.AssetManager
import java.nio.ByteBuffer
import java.nio.ByteOrder
import org.tensorflow.lite.Interpreter

enum class Accelerator { NONE, CPU, GPU, NPU }

class TensorBuffer internal constructor(internal var bytes: ByteArray = ByteArray(0)) : AutoCloseable {
    private fun numbers() = ByteBuffer.wrap(bytes).order(ByteOrder.nativeOrder()).asFloatBuffer()

    fun writeFloat(data: FloatArray) {
        bytes = ByteArray(4 * data.size)
        numbers().put(data)
    }

    fun writeInt8(data: ByteArray) {
        bytes = data.copyOf()
    }

    fun readFloat(): FloatArray = numbers().let { buffer -> FloatArray(buffer.remaining()).also { buffer.get(it) } }
    fun readInt8(): ByteArray = bytes
    override fun close() {}
}

class CompiledModel private constructor(private val file: ByteArray) : AutoCloseable {
    data class CpuOptions(val numThreads: Int? = null)

    class Options(vararg val accelerators: Accelerator) {
        var cpuOptions: CpuOptions? = null

        companion object {
            @JvmStatic val CPU = Options(Accelerator.CPU)
        }
    }

    fun createInputBuffer(inputName: String, signature: String = ""): TensorBuffer = named(inputName == "images", signature)
    fun createOutputBuffer(outputName: String, signature: String = ""): TensorBuffer =
        named(outputName in listOf("logits", "features", "pooled", "tokens"), signature)

    fun run(inputs: Map<String, TensorBuffer>, outputs: Map<String, TensorBuffer>, signature: String = "") {
        check(signature.isEmpty() && !Interpreter.closed)
        Interpreter.input = inputs.getValue("images").bytes
        for (output in outputs.values) output.bytes = file
    }

    override fun close() {
        Interpreter.closed = true
    }

    private fun named(known: Boolean, signature: String): TensorBuffer {
        require(known && signature.isEmpty())
        return TensorBuffer()
    }

    companion object {
        fun create(assetManager: AssetManager, assetName: String, options: Options = Options.CPU): CompiledModel {
            require(options.accelerators.isNotEmpty())
            Interpreter.closed = false
            val descriptor = assetManager.openFd(assetName)
            return CompiledModel(descriptor.use { java.io.FileInputStream(it.fileDescriptor).readBytes() })
        }
    }
}

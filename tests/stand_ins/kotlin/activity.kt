package androidx.activity

import android.app.Activity
import androidx.activity.result.ActivityResultLauncher
import androidx.activity.result.contract.ActivityResultContract
import androidx.lifecycle.LifecycleOwner

abstract class ComponentActivity : Activity(), LifecycleOwner {
    override fun onCreate(savedInstanceState: android.os.Bundle?) = super.onCreate(savedInstanceState)

    fun <I, O> registerForActivityResult(
        contract: ActivityResultContract<I, O>, callback: (O) -> Unit,
    ): ActivityResultLauncher<I> = throw UnsupportedOperationException("$contract, $callback")
}

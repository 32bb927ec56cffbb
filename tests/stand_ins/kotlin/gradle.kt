// gradle/gradle (Kotlin DSL) and the Android Gradle plugin's com.android.build.api.dsl: what a bundle's build script calls.
package gradle

interface PluginDependenciesSpec { fun id(id: String): Any }
interface LibraryDefaultConfig {
    var minSdk: Int?
    fun consumerProguardFiles(vararg files: Any): Any
}
interface LibraryExtension {
    var namespace: String?
    var compileSdk: Int?
    fun defaultConfig(action: LibraryDefaultConfig.() -> Unit)
}
interface DependencyHandlerScope {
    fun api(dependencyNotation: Any): Any?
    fun runtimeOnly(dependencyNotation: Any): Any?
}
interface Project {
    fun plugins(block: PluginDependenciesSpec.() -> Unit)
    fun android(configure: LibraryExtension.() -> Unit)
    fun dependencies(configuration: DependencyHandlerScope.() -> Unit)
}

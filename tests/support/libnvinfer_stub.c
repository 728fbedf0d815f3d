/* The C symbols that NVIDIA's `tensorrt_bindings` extension module imports from TensorRT's
 * libraries, as empty shells.
 *
 * With these in place the genuine Python bindings load on a machine that has neither TensorRT nor a
 * GPU, so a test can ask them what really exists: classes, enums, signatures, argument checks.
 * Nothing can be built or run: every factory returns NULL, which the bindings turn into a Python
 * TypeError ("factory function returned nullptr") or into None.
 *
 * Built once per library name and major version (libnvinfer.so.10, libnvonnxparser.so.10, ...),
 * each time with that soname and the same contents; see build_stub() in tensorrt_bindings.py.
 *
 * The argument lists are those of the public headers, with every class pointer as `void *`. No
 * argument is ever read and the caller cleans up its own in this ABI, so a version that passes one
 * more or one less does no harm.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- libnvinfer: NvInferRuntime.h, NvInfer.h ---- */

/* -> IBuilder *. trt.Builder(logger) raises. */
void* createInferBuilder_INTERNAL(void* logger, int32_t version) {
    (void)logger, (void)version;
    return NULL;
}

/* -> IRuntime *. trt.Runtime(logger) raises. */
void* createInferRuntime_INTERNAL(void* logger, int32_t version) {
    (void)logger, (void)version;
    return NULL;
}

/* -> IRefitter *. trt.Refitter(engine, logger) raises. */
void* createInferRefitter_INTERNAL(void* engine, void* logger, int32_t version) {
    (void)engine, (void)logger, (void)version;
    return NULL;
}

/* -> IPluginRegistry *. trt.get_plugin_registry() is None. */
void* getPluginRegistry(void) { return NULL; }

/* -> IPluginRegistry *. trt.get_builder_plugin_registry(capability) is None. */
void* getBuilderPluginRegistry(int32_t capability) {
    (void)capability;
    return NULL;
}

/* ---- libnvinfer_plugin: NvInferPlugin.h ---- */

/* Reports success, having registered no plugin at all. */
bool initLibNvInferPlugins(void* logger, const char* library_namespace) {
    (void)logger, (void)library_namespace;
    return true;
}

/* ---- libnvonnxparser: NvOnnxParser.h ---- */

/* -> IParser *. trt.OnnxParser(network, logger) raises. */
void* createNvOnnxParser_INTERNAL(void* network, void* logger, int32_t version) {
    (void)network, (void)logger, (void)version;
    return NULL;
}

/* -> IParserRefitter *. trt.OnnxParserRefitter(refitter, logger) raises. */
void* createNvOnnxParserRefitter_INTERNAL(void* refitter, void* logger, int32_t version) {
    (void)refitter, (void)logger, (void)version;
    return NULL;
}

/* 0 is no real version: a test that sees it knows that it looks at the stub. */
int32_t getNvOnnxParserVersion(void) { return 0; }

/* ---- libnvparsers, TensorRT 8 only: C++ functions, so under their Itanium ABI names ---- */

/* nvuffparser::createUffParser() -> IUffParser * */
void* _ZN11nvuffparser15createUffParserEv(void) { return NULL; }

/* nvuffparser::FieldMap::FieldMap(char const *name, void const *data, FieldType type, int length)
 * leaves *self as it is. */
void _ZN11nvuffparser8FieldMapC1EPKcPKvNS_9FieldTypeEi(void* self, const char* name,
                                                       const void* data, int32_t type,
                                                       int32_t length) {
    (void)self, (void)name, (void)data, (void)type, (void)length;
}

/* nvcaffeparser1::createCaffeParser() -> ICaffeParser * */
void* _ZN14nvcaffeparser117createCaffeParserEv(void) { return NULL; }

/* nvcaffeparser1::shutdownProtobufLibrary() */
void _ZN14nvcaffeparser123shutdownProtobufLibraryEv(void) {}

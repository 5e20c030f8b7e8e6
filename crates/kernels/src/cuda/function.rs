//! Kernels that are compiled for the installed GPU on first use.

use std::{
    collections::HashMap,
    ffi::{CStr, CString, c_char},
    sync::Arc,
};

use candle_core::{Error, Result, cuda_backend::cudarc};
use cudarc::{
    driver::{CudaContext, CudaFunction, CudaModule, sys::CUfunction_attribute},
    nvrtc::{Ptx, result as nvrtc, sys},
};
use llm_dit_device::{Capability, driver_error};
use parking_lot::Mutex;

use super::{Gpu, source::Source};

type Modules = HashMap<(usize, Source), Arc<CudaModule>>;
type Functions = HashMap<(usize, Source, &'static str), CudaFunction>;

static MODULES: Mutex<Option<Modules>> = Mutex::new(None);
static FUNCTIONS: Mutex<Option<Functions>> = Mutex::new(None);

impl Gpu {
    /// A kernel that needs no more than the usual shared memory.
    ///
    /// # Errors
    ///
    /// As [`Self::function_with`].
    pub fn function(&self, source: Source, name: &'static str) -> Result<CudaFunction> {
        self.function_with(source, name, 0)
    }

    /// A kernel with this much dynamic shared memory.
    ///
    /// # Errors
    ///
    /// Fails if the module does not compile or load, or if the GPU does not have the shared memory.
    pub fn function_with(
        &self,
        source: Source,
        name: &'static str,
        shared_bytes: u32,
    ) -> Result<CudaFunction> {
        let key = (self.properties.ordinal, source, name);
        let mut functions = FUNCTIONS.lock();
        let functions = functions.get_or_insert_with(HashMap::new);
        if let Some(function) = functions.get(&key) {
            return Ok(function.clone());
        }
        let module = self.module(source)?;
        let function = module.load_function(name).map_err(driver_error)?;
        if shared_bytes > 48 << 10 {
            let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            function.set_attribute(attribute, shared_bytes as i32).map_err(driver_error)?;
        }
        functions.insert(key, function.clone());
        Ok(function)
    }

    fn module(&self, source: Source) -> Result<Arc<CudaModule>> {
        let key = (self.properties.ordinal, source);
        let mut modules = MODULES.lock();
        let modules = modules.get_or_insert_with(HashMap::new);
        if let Some(module) = modules.get(&key) {
            return Ok(Arc::clone(module));
        }
        let module = load(self.stream.context(), source, self.properties.capability)?;
        modules.insert(key, Arc::clone(&module));
        Ok(module)
    }
}

fn load(
    context: &Arc<CudaContext>,
    source: Source,
    capability: Capability,
) -> Result<Arc<CudaModule>> {
    let image = compile(source, capability)?;
    context.load_module(Ptx::from_binary(image)).map_err(driver_error)
}

/// Machine code for a GPU of this capability.
fn compile(source: Source, capability: Capability) -> Result<Vec<u8>> {
    let architecture = format!("--gpu-architecture={}", source.architecture(capability));
    let text = CString::new(source.text()).map_err(|e| Error::Msg(e.to_string()))?;
    let failed = |e: nvrtc::NvrtcError, log: String| {
        Error::Msg(format!("NVRTC could not compile {source:?} ({architecture}): {e:?}\n{log}"))
    };
    let program =
        nvrtc::create_program(&text, Some(c"llm-dit.cu")).map_err(|e| failed(e, String::new()))?;
    // SAFETY: `program` was just made, and is destroyed once, after its last use; the buffer has the
    // size that NVRTC asked for.
    unsafe {
        let compiled = nvrtc::compile_program(program, std::slice::from_ref(&architecture));
        let image = compiled.map_err(|e| failed(e, log(program))).and_then(|()| {
            let mut size = 0;
            sys::nvrtcGetCUBINSize(program, &mut size)
                .result()
                .map_err(|e| failed(e, String::new()))?;
            let mut image = vec![0u8; size];
            sys::nvrtcGetCUBIN(program, image.as_mut_ptr().cast::<c_char>())
                .result()
                .map_err(|e| failed(e, String::new()))?;
            Ok(image)
        });
        // There is nothing to be done about a program that stays.
        let _ = nvrtc::destroy_program(program);
        image
    }
}

/// What the compiler had to say.
///
/// # Safety
///
/// `program` is alive.
unsafe fn log(program: sys::nvrtcProgram) -> String {
    // SAFETY: as the caller says.
    let Ok(bytes) = (unsafe { nvrtc::get_program_log(program) }) else { return String::new() };
    // SAFETY: NVRTC ends its log with a zero byte.
    unsafe { CStr::from_ptr(bytes.as_ptr()) }.to_string_lossy().into_owned()
}

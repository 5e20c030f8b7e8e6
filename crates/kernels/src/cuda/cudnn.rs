//! cuDNN's fused attention, through its backend API.
//!
//! The library is looked for when it is first needed, and its few functions and numbers are written
//! out here: a machine without cuDNN builds and runs this program, with our own kernel instead.

use std::{
    collections::HashMap,
    ffi::{CStr, c_char, c_int, c_void},
    ptr,
    sync::OnceLock,
};

use candle_core::{Error, Result, Tensor};
use libloading::Library;
use llm_dit_device::CudaError;
use parking_lot::Mutex;

use super::{Gpu, tensor::address};

/// One operation for all of attention came with this version.
const OLDEST: usize = 91_300;

/// Query, key, value and result are `(batch, len, heads, head_dim)`; query, key and value lie beside
/// each other in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    pub batch: usize,
    pub len: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
}

type Handle = *mut c_void;
type Descriptor = *mut c_void;
type Status = c_int;

/// `cudnnBackendAttributeType_t`.
mod kind {
    pub const HANDLE: i32 = 0;
    pub const DATA_TYPE: i32 = 1;
    pub const BOOLEAN: i32 = 2;
    pub const INT64: i32 = 3;
    pub const VOID_PTR: i32 = 6;
    pub const HEUR_MODE: i32 = 8;
    pub const DESCRIPTOR: i32 = 15;
}

/// `cudnnBackendDescriptorType_t`.
mod descriptor {
    pub const ENGINE_CONFIG: i32 = 3;
    pub const ENGINE_HEURISTICS: i32 = 4;
    pub const EXECUTION_PLAN: i32 = 5;
    pub const OPERATION_GRAPH: i32 = 15;
    pub const VARIANT_PACK: i32 = 16;
    pub const TENSOR: i32 = 17;
    pub const SDPA_FORWARD: i32 = 41;
}

/// `cudnnBackendAttributeName_t`.
mod attribute {
    pub const HEURISTICS_MODE: i32 = 200;
    pub const HEURISTICS_GRAPH: i32 = 201;
    pub const HEURISTICS_RESULTS: i32 = 202;
    pub const PLAN_HANDLE: i32 = 400;
    pub const PLAN_ENGINE_CONFIG: i32 = 401;
    pub const PLAN_WORKSPACE_SIZE: i32 = 402;
    pub const GRAPH_HANDLE: i32 = 800;
    pub const GRAPH_OPERATIONS: i32 = 801;
    pub const TENSOR_ALIGNMENT: i32 = 900;
    pub const TENSOR_DATA_TYPE: i32 = 901;
    pub const TENSOR_DIMENSIONS: i32 = 902;
    pub const TENSOR_STRIDES: i32 = 903;
    pub const TENSOR_ID: i32 = 906;
    pub const TENSOR_BY_VALUE: i32 = 908;
    pub const PACK_IDS: i32 = 1000;
    pub const PACK_POINTERS: i32 = 1001;
    pub const PACK_WORKSPACE: i32 = 1003;
    pub const SDPA_QUERY: i32 = 2800;
    pub const SDPA_KEY: i32 = 2801;
    pub const SDPA_VALUE: i32 = 2802;
    pub const SDPA_OUT: i32 = 2803;
    pub const SDPA_SCALE: i32 = 2805;
}

/// `cudnnDataType_t`.
const FLOAT: i32 = 0;
const BFLOAT16: i32 = 9;

/// `cudnnBackendHeurMode_t`: the best guess, then anything that works.
const HEURISTICS: [i32; 2] = [3, 2];

/// The functions that are called.
struct Api {
    create: unsafe extern "C" fn(*mut Handle) -> Status,
    set_stream: unsafe extern "C" fn(Handle, *mut c_void) -> Status,
    create_descriptor: unsafe extern "C" fn(c_int, *mut Descriptor) -> Status,
    destroy_descriptor: unsafe extern "C" fn(Descriptor) -> Status,
    set_attribute: unsafe extern "C" fn(Descriptor, c_int, c_int, i64, *const c_void) -> Status,
    get_attribute:
        unsafe extern "C" fn(Descriptor, c_int, c_int, i64, *mut i64, *mut c_void) -> Status,
    finalize: unsafe extern "C" fn(Descriptor) -> Status,
    execute: unsafe extern "C" fn(Handle, Descriptor, Descriptor) -> Status,
    last_error: unsafe extern "C" fn(*mut c_char, usize),
    _library: Library,
}

/// Descriptors and handles of one GPU's stream.
#[derive(Default)]
struct Session {
    handle: Option<Handle>,
    /// `None`: cuDNN has no kernel for the shape.
    plans: HashMap<Shape, Option<Plan>>,
}

struct Plan {
    plan: Descriptor,
    workspace: usize,
    /// What the plan refers to.
    _parts: Vec<Owned>,
}

// SAFETY: cuDNN's handles may be used by any thread, one at a time; the lock around them sees to it.
unsafe impl Send for Session {}

/// A descriptor that is destroyed with its owner.
struct Owned {
    api: &'static Api,
    descriptor: Descriptor,
}

/// Attention of all sequences of one length. False where there is no cuDNN, or no kernel for this.
///
/// # Errors
///
/// Fails if cuDNN or the driver fails while the kernel runs.
pub fn attention(gpu: &Gpu, shape: Shape, qkv: u64, out: u64) -> Result<bool> {
    static SESSIONS: Mutex<Option<HashMap<(usize, usize), Session>>> = Mutex::new(None);
    let Some(api) = api() else { return Ok(false) };
    if shape.len == 0 || shape.batch == 0 {
        return Ok(true);
    }
    let mut sessions = SESSIONS.lock();
    let key = (gpu.ordinal(), gpu.raw_stream() as usize);
    let session = sessions.get_or_insert_with(HashMap::new).entry(key).or_default();
    let handle = session.handle(api, gpu)?;
    let plan = session.plans.entry(shape).or_insert_with(|| {
        Plan::new(api, handle, shape)
            .map_err(
                |error| tracing::info!(%error, ?shape, "cuDNN does not support attention of this shape"),
            )
            .ok()
    });
    let Some(plan) = plan else { return Ok(false) };
    plan.run(api, handle, gpu, shape, qkv, out)?;
    Ok(true)
}

/// cuDNN, if this machine has one that is new enough.
fn api() -> Option<&'static Api> {
    static API: OnceLock<Option<Api>> = OnceLock::new();
    API.get_or_init(|| match Api::load() {
        Ok(api) => Some(api),
        Err(error) => {
            tracing::info!(%error, "cuDNN not found; using the slower built-in attention kernel");
            None
        }
    })
    .as_ref()
}

impl Api {
    fn load() -> std::result::Result<Self, String> {
        let text = |e: libloading::Error| e.to_string();
        // SAFETY: cuDNN's initialisers have no demands; the functions have the signatures of its
        // documentation, and the library stays loaded beside them.
        unsafe {
            let library = Library::new("libcudnn.so.9").map_err(text)?;
            let version: unsafe extern "C" fn() -> usize =
                *library.get(b"cudnnGetVersion\0").map_err(text)?;
            let version = version();
            if version < OLDEST {
                return Err(format!("cuDNN {version} is older than {OLDEST}"));
            }
            Ok(Self {
                create: *library.get(b"cudnnCreate\0").map_err(text)?,
                set_stream: *library.get(b"cudnnSetStream\0").map_err(text)?,
                create_descriptor: *library.get(b"cudnnBackendCreateDescriptor\0").map_err(text)?,
                destroy_descriptor: *library
                    .get(b"cudnnBackendDestroyDescriptor\0")
                    .map_err(text)?,
                set_attribute: *library.get(b"cudnnBackendSetAttribute\0").map_err(text)?,
                get_attribute: *library.get(b"cudnnBackendGetAttribute\0").map_err(text)?,
                finalize: *library.get(b"cudnnBackendFinalize\0").map_err(text)?,
                execute: *library.get(b"cudnnBackendExecute\0").map_err(text)?,
                last_error: *library.get(b"cudnnGetLastErrorString\0").map_err(text)?,
                _library: library,
            })
        }
    }

    fn check(&self, status: Status, what: &str) -> Result<()> {
        if status == 0 {
            return Ok(());
        }
        let mut text = [0 as c_char; 256];
        // SAFETY: cuDNN writes at most the given number of bytes, and ends the text with a zero
        // byte.
        let text = unsafe {
            (self.last_error)(text.as_mut_ptr(), text.len());
            CStr::from_ptr(text.as_ptr()).to_string_lossy().into_owned()
        };
        Err(CudaError::Cudnn { call: what.to_owned(), status, text }.into())
    }
}

impl Session {
    fn handle(&mut self, api: &Api, gpu: &Gpu) -> Result<Handle> {
        if let Some(handle) = self.handle {
            return Ok(handle);
        }
        let mut handle = ptr::null_mut();
        // SAFETY: the stream belongs to the device that is current on this thread.
        unsafe {
            api.check((api.create)(&mut handle), "create a handle")?;
            api.check((api.set_stream)(handle, gpu.raw_stream().cast()), "set the stream")?;
        }
        self.handle = Some(handle);
        Ok(handle)
    }
}

impl Owned {
    fn new(api: &'static Api, which: i32) -> Result<Self> {
        let mut descriptor = ptr::null_mut();
        // SAFETY: cuDNN writes one pointer.
        api.check(unsafe { (api.create_descriptor)(which, &mut descriptor) }, "describe")?;
        Ok(Self { api, descriptor })
    }

    /// `values` are of the type that `kind` names.
    fn set<T>(&self, name: i32, kind: i32, values: &[T]) -> Result<()> {
        let (count, values) = (values.len() as i64, values.as_ptr().cast());
        // SAFETY: the callers below pass values of the kind's type.
        let status =
            unsafe { (self.api.set_attribute)(self.descriptor, name, kind, count, values) };
        self.api.check(status, &format!("attribute {name}"))
    }

    fn finish(self) -> Result<Self> {
        // SAFETY: the descriptor is alive.
        let status = unsafe { (self.api.finalize)(self.descriptor) };
        self.api.check(status, "finalize")?;
        Ok(self)
    }

    fn tensor(
        api: &'static Api,
        id: i64,
        data_type: i32,
        dims: [i64; 4],
        strides: [i64; 4],
        by_value: bool,
    ) -> Result<Self> {
        let tensor = Self::new(api, descriptor::TENSOR)?;
        tensor.set(attribute::TENSOR_ID, kind::INT64, &[id])?;
        tensor.set(attribute::TENSOR_DATA_TYPE, kind::DATA_TYPE, &[data_type])?;
        tensor.set(attribute::TENSOR_DIMENSIONS, kind::INT64, &dims)?;
        tensor.set(attribute::TENSOR_STRIDES, kind::INT64, &strides)?;
        tensor.set(attribute::TENSOR_ALIGNMENT, kind::INT64, &[16i64])?;
        if by_value {
            tensor.set(attribute::TENSOR_BY_VALUE, kind::BOOLEAN, &[1u8])?;
        }
        tensor.finish()
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        // SAFETY: made by cuDNN, destroyed once. There is nothing to be done about one that stays.
        let _ = unsafe { (self.api.destroy_descriptor)(self.descriptor) };
    }
}

impl Plan {
    fn new(api: &'static Api, handle: Handle, shape: Shape) -> Result<Self> {
        let [batch, len, heads, kv_heads, dim] =
            [shape.batch, shape.len, shape.heads, shape.kv_heads, shape.head_dim].map(|n| n as i64);
        let row = (heads + 2 * kv_heads) * dim;
        let inputs = |count: i64| ([batch, count, len, dim], [len * row, dim, row, 1]);
        let bf16 = |id: i64, (dims, strides): ([i64; 4], [i64; 4])| {
            Owned::tensor(api, id, BFLOAT16, dims, strides, false)
        };
        let query = bf16(1, inputs(heads))?;
        let key = bf16(2, inputs(kv_heads))?;
        let value = bf16(3, inputs(kv_heads))?;
        let strides = [len * heads * dim, dim, heads * dim, 1];
        let out = bf16(4, ([batch, heads, len, dim], strides))?;
        let scale = Owned::tensor(api, 5, FLOAT, [1; 4], [1; 4], true)?;

        let operation = Owned::new(api, descriptor::SDPA_FORWARD)?;
        for (name, tensor) in [
            (attribute::SDPA_QUERY, &query),
            (attribute::SDPA_KEY, &key),
            (attribute::SDPA_VALUE, &value),
            (attribute::SDPA_OUT, &out),
            (attribute::SDPA_SCALE, &scale),
        ] {
            operation.set(name, kind::DESCRIPTOR, &[tensor.descriptor])?;
        }
        let operation = operation.finish()?;
        let graph = Owned::new(api, descriptor::OPERATION_GRAPH)?;
        graph.set(attribute::GRAPH_HANDLE, kind::HANDLE, &[handle])?;
        graph.set(attribute::GRAPH_OPERATIONS, kind::DESCRIPTOR, &[operation.descriptor])?;
        let graph = graph.finish()?;

        let mut last = Error::Msg("cuDNN knows no engine for it".into());
        let parts = vec![query, key, value, out, scale, operation];
        for mode in HEURISTICS {
            match Self::by_heuristics(api, handle, &graph, mode) {
                Ok((plan, workspace, config)) => {
                    let descriptor = plan.descriptor;
                    let mut parts = parts;
                    parts.extend([graph, config, plan]);
                    return Ok(Self { plan: descriptor, workspace, _parts: parts });
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// The first engine of this mode's list that works, its memory, and its configuration.
    fn by_heuristics(
        api: &'static Api,
        handle: Handle,
        graph: &Owned,
        mode: i32,
    ) -> Result<(Owned, usize, Owned)> {
        let heuristics = Owned::new(api, descriptor::ENGINE_HEURISTICS)?;
        heuristics.set(attribute::HEURISTICS_GRAPH, kind::DESCRIPTOR, &[graph.descriptor])?;
        heuristics.set(attribute::HEURISTICS_MODE, kind::HEUR_MODE, &[mode])?;
        let heuristics = heuristics.finish()?;
        let configs = (0..8)
            .map(|_| Owned::new(api, descriptor::ENGINE_CONFIG))
            .collect::<Result<Vec<_>>>()?;
        let mut raw: Vec<Descriptor> = configs.iter().map(|c| c.descriptor).collect();
        let mut found = 0;
        // SAFETY: cuDNN fills in the descriptors that it is given, at most as many as there are.
        let status = unsafe {
            (api.get_attribute)(
                heuristics.descriptor,
                attribute::HEURISTICS_RESULTS,
                kind::DESCRIPTOR,
                raw.len() as i64,
                &mut found,
                raw.as_mut_ptr().cast(),
            )
        };
        api.check(status, "ask for engines")?;
        let mut last = Error::Msg("cuDNN knows no engine for it".into());
        for config in configs.into_iter().take(found as usize) {
            let plan = Owned::new(api, descriptor::EXECUTION_PLAN)?;
            plan.set(attribute::PLAN_HANDLE, kind::HANDLE, &[handle])?;
            plan.set(attribute::PLAN_ENGINE_CONFIG, kind::DESCRIPTOR, &[config.descriptor])?;
            match plan.finish() {
                Ok(plan) => {
                    let (mut bytes, mut count) = (0i64, 0i64);
                    // SAFETY: cuDNN writes one 64-bit number.
                    let status = unsafe {
                        (api.get_attribute)(
                            plan.descriptor,
                            attribute::PLAN_WORKSPACE_SIZE,
                            kind::INT64,
                            1,
                            &mut count,
                            ptr::from_mut(&mut bytes).cast(),
                        )
                    };
                    api.check(status, "ask for the memory")?;
                    return Ok((plan, bytes.max(0) as usize, config));
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn run(
        &self,
        api: &'static Api,
        handle: Handle,
        gpu: &Gpu,
        shape: Shape,
        qkv: u64,
        out: u64,
    ) -> Result<()> {
        let workspace: Tensor = gpu.workspace(self.workspace)?;
        let scale = 1.0 / (shape.head_dim as f32).sqrt();
        let bytes = |columns: usize| (columns * shape.head_dim * 2) as u64;
        let key = qkv + bytes(shape.heads);
        let pointers = [qkv, key, key + bytes(shape.kv_heads), out, ptr::from_ref(&scale) as u64];
        let pack = Owned::new(api, descriptor::VARIANT_PACK)?;
        pack.set(attribute::PACK_IDS, kind::INT64, &[1i64, 2, 3, 4, 5])?;
        pack.set(attribute::PACK_POINTERS, kind::VOID_PTR, &pointers)?;
        pack.set(attribute::PACK_WORKSPACE, kind::VOID_PTR, &[address::<u8>(&workspace)?])?;
        let pack = pack.finish()?;
        // SAFETY: the pointers belong to tensors of the shape that the plan was made for; the memory
        // is freed in the stream's order, after the kernel.
        api.check(unsafe { (api.execute)(handle, self.plan, pack.descriptor) }, "execute")
    }
}

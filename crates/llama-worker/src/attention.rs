//! Attention on one thread of a processor, computed by [`haul_kernels::cells`] in place of the engine.
//!
//! The engine computes the tokens of many sequences either against all cells of the cache, and masks most of it afterwards,
//! or cell by cell. Here a tile of tokens is multiplied with the cells that it sees. To the engine this is one more of its
//! backends: a device that can do one operation ([`supports`]), in the memory of the processor, for which the engine asks
//! every device that is faster than the processor.
//!
//! The structures are those of `ggml-backend-impl.h`, which the engine's bindings leave out; with another [`API_VERSION`] than
//! the engine's, attention is left to the engine.

use std::ffi::{c_char, c_int, c_void};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use haul_frames::Attention;
use haul_kernels::cells::{CELLS_STEP, Cache, HEAD_SIZE_STEP, Heads, Mask, Scratch, Shape, attend};
use haul_kernels::isa::Isa;
use llama_cpp_sys_2 as sys;

/// `GGML_BACKEND_API_VERSION` of the engine that this was written for.
const API_VERSION: c_int = 3;

/// What the engine calls the backend and its device.
const NAME: &std::ffi::CStr = c"haul";

/// `ggml_backend_reg`
#[repr(C)]
struct Registry {
    api_version: c_int,
    get_name: unsafe extern "C" fn(sys::ggml_backend_reg_t) -> *const c_char,
    get_device_count: unsafe extern "C" fn(sys::ggml_backend_reg_t) -> usize,
    get_device: unsafe extern "C" fn(sys::ggml_backend_reg_t, usize) -> sys::ggml_backend_dev_t,
    get_proc_address: Option<unsafe extern "C" fn()>,
    /// The device.
    context: *mut Device,
}

/// `ggml_backend_device`. A function that is none is an operation that the device does not have.
#[repr(C)]
struct Device {
    get_name: unsafe extern "C" fn(sys::ggml_backend_dev_t) -> *const c_char,
    get_description: unsafe extern "C" fn(sys::ggml_backend_dev_t) -> *const c_char,
    get_memory: unsafe extern "C" fn(sys::ggml_backend_dev_t, *mut usize, *mut usize),
    get_type: unsafe extern "C" fn(sys::ggml_backend_dev_t) -> sys::ggml_backend_dev_type,
    get_props: unsafe extern "C" fn(sys::ggml_backend_dev_t, *mut sys::ggml_backend_dev_props),
    init_backend: unsafe extern "C" fn(sys::ggml_backend_dev_t, *const c_char) -> sys::ggml_backend_t,
    get_buffer_type: unsafe extern "C" fn(sys::ggml_backend_dev_t) -> sys::ggml_backend_buffer_type_t,
    get_host_buffer_type: Option<unsafe extern "C" fn()>,
    buffer_from_host_ptr: Option<unsafe extern "C" fn()>,
    supports_op: unsafe extern "C" fn(sys::ggml_backend_dev_t, *const sys::ggml_tensor) -> bool,
    supports_buft: unsafe extern "C" fn(sys::ggml_backend_dev_t, sys::ggml_backend_buffer_type_t) -> bool,
    offload_op: Option<unsafe extern "C" fn()>,
    /// New, free, synchronize.
    events: [Option<unsafe extern "C" fn()>; 3],
    registry: *mut Registry,
    context: *mut c_void,
}

/// `ggml_backend`: one for each context.
#[repr(C)]
struct Backend {
    guid: *const sys::ggml_guid,
    get_name: unsafe extern "C" fn(sys::ggml_backend_t) -> *const c_char,
    free: unsafe extern "C" fn(sys::ggml_backend_t),
    /// Set, get, set and get of two dimensions, copy.
    tensors_async: [Option<unsafe extern "C" fn()>; 5],
    synchronize: Option<unsafe extern "C" fn()>,
    /// Create, free, update, compute.
    graph_plans: [Option<unsafe extern "C" fn()>; 4],
    graph_compute: unsafe extern "C" fn(sys::ggml_backend_t, *mut sys::ggml_cgraph) -> sys::ggml_status,
    /// Record, wait.
    events: [Option<unsafe extern "C" fn()>; 2],
    graph_optimize: Option<unsafe extern "C" fn()>,
    device: sys::ggml_backend_dev_t,
    context: *mut Context,
}

/// What a backend computes with.
struct Context {
    isa: Isa,
    scratch: Scratch,
}

/// A number that no other backend has.
static GUID: sys::ggml_guid = *b"haul's attention";

/// Operations of attention that the engine asked about since the device was registered, and that were taken.
static TAKEN: AtomicU32 = AtomicU32::new(0);
/// Those that were not.
static REFUSED: AtomicU32 = AtomicU32::new(0);

/// The device among those of the engine, for contexts that are made while this lives.
pub(crate) struct Registered {
    registry: *mut Registry,
    vectors: &'static str,
}

impl Registered {
    /// Adds the device to the engine's; none on processors for which no kernels are written. An error is why the engine
    /// cannot have it.
    pub(crate) fn new() -> Result<Option<Self>, String> {
        let Some(vectors) = vectors(Isa::best()) else { return Ok(None) };
        let version = engine_api_version().ok_or("it has no backend for the processor")?;
        if version != API_VERSION {
            return Err(format!(
                "its structures are of version {version}, and Haul knows those of {API_VERSION}"
            ));
        }
        TAKEN.store(0, Relaxed);
        REFUSED.store(0, Relaxed);
        // Contexts go on using the device: it is never freed.
        let device = Box::leak(Box::new(Device::new()));
        let registry = Box::into_raw(Box::new(Registry {
            api_version: API_VERSION,
            get_name: name_of_registry,
            get_device_count: device_count,
            get_device,
            get_proc_address: None,
            context: device,
        }));
        device.registry = registry;
        // SAFETY: the structures are laid out as the engine's, whose version is this one, and are never freed.
        unsafe { sys::ggml_backend_register(registry.cast()) };
        Ok(Some(Self { registry, vectors }))
    }

    /// Who computes attention in the contexts that were made since: Haul, if it took all that the engine asked for while it
    /// planned their graphs.
    pub(crate) fn attention(&self) -> Attention {
        match (TAKEN.load(Relaxed), REFUSED.load(Relaxed)) {
            (1.., 0) => Attention::Haul { isa: self.vectors.to_owned() },
            (taken, refused) => Attention::Engine {
                instead_because: Some(format!("Haul does {taken} of {} of its operations", taken + refused)),
            },
        }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        // SAFETY: it was registered, and contexts keep what they have of it.
        unsafe { sys::ggml_backend_unload(self.registry.cast()) };
    }
}

/// The instruction set of the kernels, which need no more of a processor than its vectors; none where the engine's are better.
fn vectors(isa: Isa) -> Option<&'static str> {
    match isa {
        Isa::Generic => None,
        Isa::Avx2(_) | Isa::AvxVnni(_) => Some("avx2"),
        Isa::Avx512(_) | Isa::Avx512Vnni(_) | Isa::Avx512Bf16(_) | Isa::Amx(_) => Some("avx512"),
    }
}

/// The version of the structures that the engine's own backend for processors was compiled with.
fn engine_api_version() -> Option<c_int> {
    // SAFETY: a device has a registry, which begins with this number in every version.
    unsafe {
        let device = sys::ggml_backend_dev_by_type(sys::GGML_BACKEND_DEVICE_TYPE_CPU);
        if device.is_null() {
            return None;
        }
        Some(sys::ggml_backend_dev_backend_reg(device).cast::<c_int>().read())
    }
}

impl Device {
    fn new() -> Self {
        Self {
            get_name: name_of_device,
            get_description: name_of_device,
            get_memory: memory,
            get_type: kind,
            get_props: props,
            init_backend: init,
            get_buffer_type: buffer_type,
            get_host_buffer_type: None,
            buffer_from_host_ptr: None,
            supports_op,
            supports_buft,
            offload_op: None,
            events: [None; 3],
            registry: std::ptr::null_mut(),
            context: std::ptr::null_mut(),
        }
    }
}

unsafe extern "C" fn name_of_registry(_: sys::ggml_backend_reg_t) -> *const c_char {
    NAME.as_ptr()
}

unsafe extern "C" fn name_of_device(_: sys::ggml_backend_dev_t) -> *const c_char {
    NAME.as_ptr()
}

unsafe extern "C" fn name_of_backend(_: sys::ggml_backend_t) -> *const c_char {
    NAME.as_ptr()
}

unsafe extern "C" fn device_count(_: sys::ggml_backend_reg_t) -> usize {
    1
}

unsafe extern "C" fn get_device(registry: sys::ggml_backend_reg_t, _: usize) -> sys::ggml_backend_dev_t {
    // SAFETY: the engine hands over what was registered, a `Registry` that is never freed.
    unsafe { (*registry.cast::<Registry>()).context.cast() }
}

unsafe extern "C" fn memory(_: sys::ggml_backend_dev_t, free: *mut usize, total: *mut usize) {
    // SAFETY: the engine asks for two numbers, and has room for both.
    unsafe {
        free.write(0);
        total.write(0);
    }
}

/// As libraries of linear algebra are: in front of the processor, and in its memory.
unsafe extern "C" fn kind(_: sys::ggml_backend_dev_t) -> sys::ggml_backend_dev_type {
    sys::GGML_BACKEND_DEVICE_TYPE_ACCEL
}

unsafe extern "C" fn props(_: sys::ggml_backend_dev_t, props: *mut sys::ggml_backend_dev_props) {
    let caps = sys::ggml_backend_dev_caps {
        async_: false,
        host_buffer: false,
        buffer_from_host_ptr: false,
        events: false,
        mmap_support: true,
    };
    let all = sys::ggml_backend_dev_props {
        name: NAME.as_ptr(),
        description: NAME.as_ptr(),
        memory_free: 0,
        memory_total: 0,
        type_: sys::GGML_BACKEND_DEVICE_TYPE_ACCEL,
        device_id: std::ptr::null(),
        caps,
    };
    // SAFETY: the engine has room for the structure.
    unsafe { props.write(all) };
}

unsafe extern "C" fn init(device: sys::ggml_backend_dev_t, _: *const c_char) -> sys::ggml_backend_t {
    let backend = Backend {
        guid: &raw const GUID,
        get_name: name_of_backend,
        free,
        tensors_async: [None; 5],
        synchronize: None,
        graph_plans: [None; 4],
        graph_compute,
        events: [None; 2],
        graph_optimize: None,
        device,
        context: Box::into_raw(Box::new(Context { isa: Isa::best(), scratch: Scratch::new() })),
    };
    Box::into_raw(Box::new(backend)).cast()
}

unsafe extern "C" fn free(backend: sys::ggml_backend_t) {
    // SAFETY: the engine frees what `init` gave it, once.
    unsafe {
        let backend = Box::from_raw(backend.cast::<Backend>());
        drop(Box::from_raw(backend.context));
    }
}

unsafe extern "C" fn buffer_type(_: sys::ggml_backend_dev_t) -> sys::ggml_backend_buffer_type_t {
    // SAFETY: no pointer goes in.
    unsafe { sys::ggml_backend_cpu_buffer_type() }
}

unsafe extern "C" fn supports_buft(
    _: sys::ggml_backend_dev_t,
    buffer_type: sys::ggml_backend_buffer_type_t,
) -> bool {
    // SAFETY: the buffer type is one of the engine's.
    unsafe { sys::ggml_backend_buft_is_host(buffer_type) }
}

unsafe extern "C" fn supports_op(_: sys::ggml_backend_dev_t, op: *const sys::ggml_tensor) -> bool {
    // SAFETY: the engine asks about an operation of a graph, whose tensors are there while it does.
    unsafe { supports(&*op) }
}

/// # Safety
/// `op` is an operation of a graph: the tensors that it names are there.
unsafe fn supports(op: &sys::ggml_tensor) -> bool {
    if is_view(op.op) {
        return true;
    }
    if op.op != sys::GGML_OP_FLASH_ATTN_EXT {
        return false;
    }
    // SAFETY: as the caller promises.
    let takes = unsafe { takes(op) };
    if takes { &TAKEN } else { &REFUSED }.fetch_add(1, Relaxed);
    takes
}

/// Whether the kernels have what this attention has.
///
/// # Safety
/// As of [`supports`].
unsafe fn takes(op: &sys::ggml_tensor) -> bool {
    // SAFETY: as the caller promises; what is not there is null.
    let [q, k, v, mask, sinks] = [0, 1, 2, 3, 4].map(|i| unsafe { op.src[i].as_ref() });
    let (Some(q), Some(k), Some(v), Some(mask), None) = (q, k, v, mask, sinks) else { return false };
    let has_types = q.type_ == sys::GGML_TYPE_F32
        && [k, v, mask].iter().all(|tensor| tensor.type_ == sys::GGML_TYPE_F16)
        && op.type_ == sys::GGML_TYPE_F32;
    let [_, max_bias, softcap] = numbers(op);
    let head_size = q.ne[0];
    let fits = k.ne == v.ne
        && k.ne[0] == head_size
        && head_size % HEAD_SIZE_STEP as i64 == 0
        && k.ne[1] % CELLS_STEP as i64 == 0
        && [q.ne[1], k.ne[1], k.ne[2]].iter().all(|count| *count > 0)
        && q.ne[2] % k.ne[2] == 0
        && mask.ne[1] >= q.ne[1]
        && mask.ne[0] == k.ne[1]
        && mask.ne[2] == 1
        && [k.ne[3], mask.ne[3]] == [q.ne[3]; 2];
    let is_packed = [q, k, v, mask].iter().all(|tensor| tensor.nb[0] == element_bytes(tensor.type_));
    has_types && max_bias == 0.0 && softcap == 0.0 && fits && is_packed
}

/// What only says how memory is read.
fn is_view(op: sys::ggml_op) -> bool {
    matches!(
        op,
        sys::GGML_OP_NONE
            | sys::GGML_OP_RESHAPE
            | sys::GGML_OP_VIEW
            | sys::GGML_OP_PERMUTE
            | sys::GGML_OP_TRANSPOSE
    )
}

/// What scores are multiplied with, their bias by distance, and what they are capped at.
fn numbers(op: &sys::ggml_tensor) -> [f32; 3] {
    [0, 1, 2].map(|i| f32::from_bits(op.op_params[i].cast_unsigned()))
}

fn element_bytes(element: sys::ggml_type) -> usize {
    if element == sys::GGML_TYPE_F16 { 2 } else { 4 }
}

unsafe extern "C" fn graph_compute(
    backend: sys::ggml_backend_t,
    graph: *mut sys::ggml_cgraph,
) -> sys::ggml_status {
    // SAFETY: the engine hands over what `init` gave it, to one thread at a time, and a graph of operations for which
    // `supports` held; their tensors are in memory of the processor.
    unsafe {
        let context = &mut *(*backend.cast::<Backend>()).context;
        for i in 0..sys::ggml_graph_n_nodes(graph) {
            let op = &*sys::ggml_graph_node(graph, i);
            if op.flags & sys::GGML_TENSOR_FLAG_COMPUTE.cast_signed() == 0 {
                continue;
            }
            if op.op == sys::GGML_OP_FLASH_ATTN_EXT {
                compute(op, context);
            } else if !is_view(op.op) {
                return sys::GGML_STATUS_FAILED;
            }
        }
    }
    sys::GGML_STATUS_SUCCESS
}

/// # Safety
/// [`supports`] holds of the operation, and its tensors have their data in memory that nothing else changes meanwhile.
unsafe fn compute(op: &sys::ggml_tensor, Context { isa, scratch }: &mut Context) {
    // SAFETY: `supports` saw these four.
    let [q, k, v, mask] = [0, 1, 2, 3].map(|i| unsafe { &*op.src[i] });
    let [scale, ..] = numbers(op);
    let shape =
        Shape { heads: q.ne[2] as usize, cache_heads: k.ne[2] as usize, head_size: q.ne[0] as usize, scale };
    let out_len = op.ne[..3].iter().product::<i64>() as usize;
    for stream in 0..q.ne[3] as usize {
        // SAFETY: the engine's sizes and strides stay within the data of each tensor; the output is packed, and no
        // input of its own operation.
        unsafe {
            let cache = Cache { keys: heads(k, stream), values: heads(v, stream), cells: k.ne[1] as usize };
            let Heads { data, row, .. } = heads(mask, stream);
            let out = op.data.byte_add(stream * op.nb[3]).cast();
            let out = std::slice::from_raw_parts_mut(out, out_len);
            attend(*isa, shape, heads(q, stream), cache, Mask { data, row }, scratch, out);
        }
    }
}

/// A stream of a tensor `[features, rows, heads, streams]`.
///
/// # Safety
/// The tensor has elements of `T`, side by side, and they live as long as is said.
unsafe fn heads<T>(tensor: &sys::ggml_tensor, stream: usize) -> Heads<'_, T> {
    let [size, rows, heads, _] = tensor.ne.map(|n| n as usize);
    let [_, row, head, _] = tensor.nb.map(|bytes| bytes / size_of::<T>());
    let len = (rows - 1) * row + (heads - 1) * head + size;
    // SAFETY: the last element of the last row of the last head is the last of these, as the caller promises.
    let data = unsafe {
        let first = tensor.data.byte_add(stream * tensor.nb[3]).cast::<T>();
        std::slice::from_raw_parts(first.cast_const(), len)
    };
    Heads { data, row, head }
}

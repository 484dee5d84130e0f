//! GGUF reading and writing: round trips, every refusal by file and field, mutated
//! headers, and the real SmolLM2 file where `TROUPE_TEST_MODELS` names its folder.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use troupe_model::gguf::{Array, GgmlType, GgufError, GgufFile, GgufWriter, Problem, Value};

/// Remembers the largest allocation of each thread, to catch counts that are believed.
struct Watching;

thread_local! {
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

#[global_allocator]
static ALLOCATOR: Watching = Watching;

// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Watching {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = LARGEST.try_with(|largest| largest.set(largest.get().max(layout.size())));
        // SAFETY: the caller's promise about the layout is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the pointer came from `alloc` above with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Opens the bytes as a file; gives back the largest allocation too.
fn open(bytes: &[u8]) -> (Result<GgufFile, GgufError>, usize) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    std::fs::write(&path, bytes).unwrap();
    LARGEST.set(0);
    let file = GgufFile::open(&path);
    (file, LARGEST.get())
}

/// The one line that says what is wrong, without the path in front of it.
#[track_caller]
fn check_refused(bytes: &[u8], expected: &str) {
    let (file, _) = open(bytes);
    let message = file.expect_err("the file should be refused").to_string();
    assert!(message.contains("model.gguf"), "no file in: {message}");
    assert!(message.contains(expected), "expected `{expected}` in: {message}");
}

fn written(writer: &GgufWriter) -> Vec<u8> {
    let mut bytes = Vec::new();
    writer.write(&mut bytes).unwrap();
    bytes
}

fn sample() -> GgufWriter<'static> {
    let mut writer = GgufWriter::new();
    let texts = ["", "a", "日本", "b c"].iter().collect();
    writer
        .set("general.architecture", Value::Text("llama".into()))
        .set("a.u8", Value::U8(200))
        .set("a.i8", Value::I8(-3))
        .set("a.u16", Value::U16(65_000))
        .set("a.i16", Value::I16(-300))
        .set("a.u32", Value::U32(7))
        .set("a.i32", Value::I32(-70_000))
        .set("a.f32", Value::F32(1.5))
        .set("a.bool", Value::Bool(true))
        .set("a.u64", Value::U64(1 << 40))
        .set("a.i64", Value::I64(-1 << 40))
        .set("a.f64", Value::F64(0.1))
        .set("b.texts", Value::Array(Array::Texts(texts)))
        .set("b.i32", Value::Array(Array::I32(vec![1, -2, 3])))
        .set("b.bool", Value::Array(Array::Bool(vec![true, false])))
        .set(
            "b.nested",
            Value::Array(Array::Arrays(vec![Array::U8(vec![1, 2]), Array::F64(vec![])])),
        );
    writer.tensor("blk.0.w", &[32, 2], GgmlType::Q8_0, vec![9u8; 68]).unwrap();
    writer.tensor("norm", &[3], GgmlType::F32, vec![1u8; 12]).unwrap();
    writer
}

#[test]
fn what_is_written_reads_back() {
    let writer = sample();
    let bytes = written(&writer);
    let (file, _) = open(&bytes);
    let file = file.unwrap();
    assert_eq!(file.version(), 3);
    assert_eq!(file.alignment(), 32);
    assert_eq!(file.metadata().len(), 16);
    assert_eq!(file.get::<&str>("general.architecture").unwrap(), "llama");
    assert_eq!(file.get::<u32>("a.u8").unwrap(), 200);
    assert_eq!(file.get::<i64>("a.i64").unwrap(), -1 << 40);
    assert_eq!(file.get::<usize>("a.u64").unwrap(), 1 << 40);
    assert_eq!(file.get::<f32>("a.f32").unwrap(), 1.5);
    assert!(file.get::<bool>("a.bool").unwrap());
    assert_eq!(file.find::<u32>("absent").unwrap(), None);
    let texts = file.get::<&troupe_model::gguf::TextArray>("b.texts").unwrap();
    assert_eq!(texts.iter().collect::<Vec<_>>(), ["", "a", "日本", "b c"]);
    assert_eq!(texts.get(4), None);
    let Some(Value::Array(Array::Arrays(nested))) = file.value("b.nested") else { panic!() };
    assert_eq!(nested[0], Array::U8(vec![1, 2]));

    let w = file.tensor("blk.0.w").unwrap();
    assert_eq!((w.dims.as_slice(), w.kind, w.byte_len), ([32, 2].as_slice(), GgmlType::Q8_0, 68));
    assert_eq!(w.offset % 32, 0);
    assert_eq!(file.tensor_bytes("blk.0.w").unwrap(), [9u8; 68]);
    assert_eq!(file.tensor_bytes("norm").unwrap(), [1u8; 12]);

    // Reading and writing again gives the same bytes.
    let mut again = GgufWriter::new();
    for (key, value) in file.metadata() {
        again.set(key.clone(), value.clone());
    }
    for tensor in file.tensors() {
        again.tensor(&tensor.name, &tensor.dims, tensor.kind, file.bytes_of(tensor)).unwrap();
    }
    assert_eq!(written(&again), bytes);
}

#[test]
fn errors_of_getters_name_file_and_key() {
    let (file, _) = open(&written(&sample()));
    let file = file.unwrap();
    let message = file.get::<u32>("absent").unwrap_err().to_string();
    assert!(message.ends_with("model.gguf` has no metadata key `absent`"), "{message}");
    let message = file.get::<u32>("a.i32").unwrap_err().to_string();
    assert!(
        message.ends_with("`a.i32` should be an integer that fits in u32, got i32 -70000"),
        "{message}"
    );
    let message = file.get::<&str>("b.i32").unwrap_err().to_string();
    assert!(message.ends_with("`b.i32` should be a string, got array of i32"), "{message}");
    let message = file.tensor_bytes("nope").unwrap_err().to_string();
    assert!(message.ends_with("has no tensor `nope`"), "{message}");
    assert!(matches!(GgufFile::open("/no/such/file"), Err(GgufError::Io { action: "open", .. })));
    assert!(GgufFile::open(std::env::temp_dir()).is_err());
}

#[test]
fn versions_and_byte_orders() {
    let good = written(&sample());
    let with_version = |version: [u8; 4]| [&good[..4], &version, &good[8..]].concat();
    assert!(open(&with_version(2u32.to_le_bytes())).0.is_ok());
    check_refused(&with_version(1u32.to_le_bytes()), "version 1 is not supported");
    check_refused(&with_version(4u32.to_le_bytes()), "version 4 is not supported");
    check_refused(&with_version(3u32.to_be_bytes()), "big-endian");
    check_refused(b"", "magic needs 4 bytes at offset 0, but 0 are left");
    check_refused(b"PK\x03\x04abcdefgh", "starts with `PK\\x03\\x04` instead of `GGUF`");
}

/// A header by hand: the fixed part, then whatever the case wants.
fn header(tensor_count: u64, key_count: u64) -> Vec<u8> {
    let mut bytes = b"GGUF".to_vec();
    bytes.extend(3u32.to_le_bytes());
    bytes.extend(tensor_count.to_le_bytes());
    bytes.extend(key_count.to_le_bytes());
    bytes
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

fn key(name: &str, kind: u32, value: &[u8]) -> Vec<u8> {
    [text(name).as_slice(), &kind.to_le_bytes(), value].concat()
}

fn array(kind: u32, count: u64) -> Vec<u8> {
    [kind.to_le_bytes().as_slice(), &count.to_le_bytes()].concat()
}

fn tensor(name: &str, dims: &[u64], kind: u32, offset: u64) -> Vec<u8> {
    let mut bytes = [text(name), (dims.len() as u32).to_le_bytes().to_vec()].concat();
    dims.iter().for_each(|dim| bytes.extend(dim.to_le_bytes()));
    bytes.extend(kind.to_le_bytes());
    bytes.extend(offset.to_le_bytes());
    bytes
}

#[test]
fn absurd_headers_are_refused_by_field() {
    let one_key = |entry: Vec<u8>| [header(0, 1), entry].concat();
    check_refused(&header(0, u64::MAX), "metadata count says 18446744073709551615 entries");
    check_refused(&header(u64::MAX, 0), "tensor count says 18446744073709551615 entries");
    check_refused(&one_key(key("", 0, &[1; 8])), "metadata key 0: it is empty");
    check_refused(&one_key(key("k", 13, &[1; 8])), "k: 13 is not a GGUF value type");
    check_refused(&one_key(key("k", 7, &[2])), "k: 2 is not a bool");
    check_refused(&one_key(key("k", 10, &[0; 7])), "k needs 8 bytes at offset 37, but 7 are left");
    check_refused(&one_key(key("k", 8, &u64::MAX.to_le_bytes())), "k needs 18446744073709551615");
    check_refused(
        &one_key(key("k", 8, &[2, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xfe])),
        "k: it is not UTF-8",
    );
    check_refused(&one_key(key("k", 9, &array(0, 1 << 60))), "k says 1152921504606846976 entries");
    check_refused(&one_key(key("k", 9, &array(12, 1 << 61))), "k says 2305843009213693952 entries");
    check_refused(&one_key(key("k", 9, &array(8, 5))), "k says 5 entries");
    let cut_text = [array(8, 2), text("ab"), 9u64.to_le_bytes().to_vec()].concat();
    check_refused(&one_key(key("k", 9, &cut_text)), "k[1] needs 9 bytes");
    let deep = [array(9, 1), array(9, 1), array(9, 1), array(9, 1), array(0, 0)].concat();
    check_refused(&one_key(key("k", 9, &deep)), "k[0][0][0][0]: arrays are nested more than 4");
    let long_key = [header(0, 1), u64::MAX.to_le_bytes().to_vec(), vec![0; 20]].concat();
    check_refused(&long_key, "metadata key 0: 18446744073709551615 bytes, at most 65535");
    let twice = [header(0, 2), key("k", 0, &[1]), key("k", 0, &[1])].concat();
    check_refused(&twice, "metadata key `k` occurs twice");
    // A name that would draw on the terminal comes out escaped.
    check_refused(&one_key(key("\u{1b}[2J", 13, &[])), "\\u{1b}[2J");

    for (bad, expected) in [(0u32, "0 is not a power of two"), (48, "48 is not a power of two")] {
        let bytes = one_key(key("general.alignment", 4, &bad.to_le_bytes()));
        check_refused(&bytes, &format!("general.alignment: {expected}"));
    }
    let signed = one_key(key("general.alignment", 5, &32u32.to_le_bytes()));
    check_refused(&signed, "general.alignment: expected u32, got i32");
}

#[test]
fn bad_tensors_are_refused_by_name() {
    let file = |entries: &[Vec<u8>]| {
        [header(entries.len() as u64, 0), entries.concat(), vec![0; 256]].concat()
    };
    check_refused(&file(&[tensor("w", &[4], 4, 0)]), "tensor `w`: unknown ggml type id 4");
    check_refused(&file(&[tensor("w", &[4, 0], 0, 0)]), "tensor `w`: dimension 1 is 0");
    check_refused(&file(&[tensor("w", &[1; 5], 0, 0)]), "tensor `w`: 5 dimensions, at most 4");
    check_refused(&file(&[tensor("w", &[33], 8, 0)]), "not whole Q8_0 blocks of 32");
    // 2^62 x 4 x 4 bytes wraps around to 0.
    check_refused(&file(&[tensor("w", &[1 << 62, 4], 0, 0)]), "does not fit in 64 bits");
    check_refused(&file(&[tensor("w", &[4], 0, 3)]), "offset 3 is not a multiple of 32");
    check_refused(&file(&[tensor("w", &[4], 0, u64::MAX - 31)]), "end past the file's");
    check_refused(
        &file(&[tensor("w", &[4], 0, 256)]),
        "16 bytes at offset 256 of the data end past",
    );
    check_refused(
        &file(&[tensor("w", &[4], 0, 0), tensor("w", &[4], 0, 32)]),
        "tensor `w` occurs twice",
    );
    check_refused(
        &file(&[tensor("b", &[1], 0, 32), tensor("a", &[9], 0, 0)]),
        "tensors `a` and `b` overlap",
    );
    // Types that cannot be computed with are listed.
    let (listed, _) = open(&file(&[tensor("w", &[256], 14, 0)]));
    assert_eq!(listed.unwrap().tensor("w").unwrap().kind.name(), "Q6_K");
}

#[test]
fn every_truncation_is_refused() {
    let good = written(&sample());
    // The padding after the last tensor (12 of 32 bytes are used) may be missing.
    for len in 0..good.len() - 20 {
        assert!(open(&good[..len]).0.is_err(), "{len} of {} bytes were accepted", good.len());
    }
    assert!(open(&good[..good.len() - 20]).0.is_ok());
}

#[test]
fn the_writer_refuses_what_the_reader_would() {
    let mut writer = GgufWriter::new();
    writer.tensor("w", &[2], GgmlType::F32, vec![0u8; 8]).unwrap();
    let problem = writer.tensor("w", &[2], GgmlType::F32, vec![0u8; 8]).unwrap_err();
    assert_eq!(problem, Problem::Duplicate { field: "tensor `w`".into() });
    let problem = writer.tensor("v", &[3], GgmlType::F32, vec![0u8; 8]).unwrap_err().to_string();
    assert_eq!(problem, "tensor `v`: [3] in F32 takes 12 bytes, got 8");
    writer.set("general.alignment", Value::U32(3));
    assert!(writer.write(&mut Vec::new()).is_err());
    writer.set("general.alignment", Value::U32(64));
    let dir = tempfile::tempdir().unwrap();
    writer.save(dir.path().join("a.gguf")).unwrap();
    let file = GgufFile::open(dir.path().join("a.gguf")).unwrap();
    assert_eq!((file.alignment(), file.tensor("w").unwrap().offset % 64), (64, 0));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..Default::default() })]

    /// Any few bytes of a good file changed, and the file cut: an answer, no panic, and
    /// no allocation far beyond the file's own size.
    #[test]
    fn mutated_headers_are_answered(
        edits in prop::collection::vec((0usize..900, prop_oneof![any::<u8>(), Just(0xff), Just(0)]), 0..6),
        wide in prop::option::of((0usize..900, any::<u64>())),
        cut in prop::option::of(0usize..1_200),
    ) {
        let mut bytes = written(&sample());
        for (at, byte) in edits {
            if let Some(slot) = bytes.get_mut(at) {
                *slot = byte;
            }
        }
        if let Some((at, value)) = wide
            && let Some(slot) = bytes.get_mut(at..at + 8)
        {
            slot.copy_from_slice(&value.to_le_bytes());
        }
        bytes.truncate(cut.unwrap_or(usize::MAX));
        let (file, largest) = open(&bytes);
        prop_assert!(largest <= 64 * 1024, "allocated {largest} bytes at once");
        if let Ok(file) = file {
            for tensor in file.tensors() {
                prop_assert_eq!(file.bytes_of(tensor).len() as u64, tensor.byte_len);
            }
        }
    }
}

/// The SmolLM2 file, by the folder in `TROUPE_TEST_MODELS`.
fn smollm2_path() -> PathBuf {
    let folder = std::env::var_os("TROUPE_TEST_MODELS")
        .expect("set TROUPE_TEST_MODELS to the folder of SmolLM2-135M-Instruct.Q4_1.gguf");
    let names = ["SmolLM2-135M-Instruct.Q4_1.gguf", "smollm2-135m-instruct.Q4_1.gguf"];
    names
        .iter()
        .map(|name| Path::new(&folder).join(name))
        .find(|path| path.exists())
        .unwrap_or_else(|| panic!("neither {names:?} is in {}", folder.display()))
}

#[test]
#[ignore = "needs TROUPE_TEST_MODELS"]
fn the_real_file_lists() {
    let file = GgufFile::open(smollm2_path()).unwrap();
    assert_eq!(file.get::<&str>("general.architecture").unwrap(), "llama");
    assert_eq!(file.get::<u32>("llama.block_count").unwrap(), 30);
    let count = |kind| file.tensors().iter().filter(|tensor| tensor.kind == kind).count();
    assert_eq!((count(GgmlType::Q8_0), count(GgmlType::F32), count(GgmlType::Q4_1)), (1, 61, 210));
    let embedding = file.tensor("token_embd.weight").unwrap();
    assert_eq!(
        (embedding.dims.as_slice(), embedding.kind),
        ([576, 49152].as_slice(), GgmlType::Q8_0)
    );
    // The first block dequantised: f16 scale times the first bytes, against the golden value.
    let block = &file.tensor_bytes("token_embd.weight").unwrap()[..34];
    let scale = half::f16::from_le_bytes([block[0], block[1]]).to_f32();
    assert_eq!(scale * f32::from(block[2] as i8), -0.106_544_495);
}

//! The block types of ggml: ids, names and sizes in a file.
//!
//! Every type with a known layout is here, so that a file which holds some we
//! cannot compute with still lists cleanly; whoever needs the numbers refuses
//! such a type by name. Source: llama.cpp, `gguf-py/gguf/constants.py`
//! (`GGMLQuantizationType`, `GGUF_QUANT_SIZES`), commit 0024aa74.

use std::fmt;

macro_rules! ggml_types {
    ($($name:ident = $id:literal, $text:literal, $block:literal, $bytes:literal;)*) => {
        /// The element or block type of a tensor in a GGUF file.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[expect(non_camel_case_types, reason = "the names are ggml's own")]
        pub enum GgmlType {
            $(#[doc = concat!("ggml's `", $text, "`: ", $block, " elements in ", $bytes, " bytes.")]
            $name,)*
        }

        impl GgmlType {
            /// The type with this id, or `None` for an id that ggml never had or has removed.
            pub fn from_id(id: u32) -> Option<Self> {
                match id { $($id => Some(GgmlType::$name),)* _ => None }
            }

            /// The id in the file.
            pub fn id(self) -> u32 {
                match self { $(GgmlType::$name => $id,)* }
            }

            /// ggml's name of the type, as in `Q4_1`.
            pub fn name(self) -> &'static str {
                match self { $(GgmlType::$name => $text,)* }
            }

            /// Elements that one block holds; a row is a whole number of blocks.
            pub fn block_elements(self) -> u64 {
                match self { $(GgmlType::$name => $block,)* }
            }

            /// Bytes that one block takes in the file.
            pub fn block_bytes(self) -> u64 {
                match self { $(GgmlType::$name => $bytes,)* }
            }
        }
    };
}

ggml_types! {
    F32 = 0, "F32", 1, 4;
    F16 = 1, "F16", 1, 2;
    Q4_0 = 2, "Q4_0", 32, 18;
    Q4_1 = 3, "Q4_1", 32, 20;
    Q5_0 = 6, "Q5_0", 32, 22;
    Q5_1 = 7, "Q5_1", 32, 24;
    Q8_0 = 8, "Q8_0", 32, 34;
    Q8_1 = 9, "Q8_1", 32, 40;
    Q2_K = 10, "Q2_K", 256, 84;
    Q3_K = 11, "Q3_K", 256, 110;
    Q4_K = 12, "Q4_K", 256, 144;
    Q5_K = 13, "Q5_K", 256, 176;
    Q6_K = 14, "Q6_K", 256, 210;
    Q8_K = 15, "Q8_K", 256, 292;
    IQ2_XXS = 16, "IQ2_XXS", 256, 66;
    IQ2_XS = 17, "IQ2_XS", 256, 74;
    IQ3_XXS = 18, "IQ3_XXS", 256, 98;
    IQ1_S = 19, "IQ1_S", 256, 50;
    IQ4_NL = 20, "IQ4_NL", 32, 18;
    IQ3_S = 21, "IQ3_S", 256, 110;
    IQ2_S = 22, "IQ2_S", 256, 82;
    IQ4_XS = 23, "IQ4_XS", 256, 136;
    I8 = 24, "I8", 1, 1;
    I16 = 25, "I16", 1, 2;
    I32 = 26, "I32", 1, 4;
    I64 = 27, "I64", 1, 8;
    F64 = 28, "F64", 1, 8;
    IQ1_M = 29, "IQ1_M", 256, 56;
    BF16 = 30, "BF16", 1, 2;
    TQ1_0 = 34, "TQ1_0", 256, 54;
    TQ2_0 = 35, "TQ2_0", 256, 66;
    MXFP4 = 39, "MXFP4", 32, 17;
    NVFP4 = 40, "NVFP4", 64, 36;
    Q1_0 = 41, "Q1_0", 128, 18;
}

impl fmt::Display for GgmlType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Bytes of a tensor of these dimensions (ggml order: the contiguous one first).
///
/// `Err` says what is wrong: a dimension of 0, a row that is not a whole number of
/// blocks, or a product that does not fit in 64 bits.
pub fn tensor_byte_len(dims: &[u64], kind: GgmlType) -> Result<u64, String> {
    if let Some(axis) = dims.iter().position(|&dim| dim == 0) {
        return Err(format!("dimension {axis} is 0"));
    }
    let row = dims.first().copied().unwrap_or(1);
    if !row.is_multiple_of(kind.block_elements()) {
        let block = kind.block_elements();
        return Err(format!("rows of {row} elements are not whole {kind} blocks of {block}"));
    }
    let row_bytes = (row / kind.block_elements()).checked_mul(kind.block_bytes());
    dims.iter()
        .skip(1)
        .try_fold(row_bytes, |bytes, &dim| Some(bytes?.checked_mul(dim)))
        .flatten()
        .ok_or_else(|| format!("the size of {dims:?} in {kind} does not fit in 64 bits"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_go_both_ways() {
        let known: Vec<GgmlType> = (0..64).filter_map(GgmlType::from_id).collect();
        assert_eq!(known.len(), 34);
        assert!(known.iter().all(|kind| GgmlType::from_id(kind.id()) == Some(*kind)));
        assert_eq!(GgmlType::from_id(4), None); // Q4_2, removed
    }

    #[test]
    fn sizes_by_hand() {
        // 576 x 3 in Q4_1: 18 blocks a row, 20 bytes each, 3 rows.
        assert_eq!(tensor_byte_len(&[576, 3], GgmlType::Q4_1), Ok(18 * 20 * 3));
        assert_eq!(tensor_byte_len(&[], GgmlType::F32), Ok(4));
        assert!(tensor_byte_len(&[33], GgmlType::Q8_0).is_err());
        assert!(tensor_byte_len(&[4, 0], GgmlType::F32).is_err());
        assert!(tensor_byte_len(&[1 << 62, 4], GgmlType::F32).is_err());
        assert!(tensor_byte_len(&[1, u64::MAX, 2], GgmlType::F16).is_err());
    }
}

//! Finds the text chunks of a PNG in which a character travels.
//!
//! Only the chunk list is walked: no picture is decoded, nothing is decompressed and
//! no checksum is tested, since cards with a stale one are common and harmless. The
//! `chara-ext-asset_` chunks of embedded assets are passed over.
//!
//! Source: PNG specification, section 5 (chunks) and 11.3.4.3 (`tEXt`).

use super::error::CardError;

/// The eight bytes with which each PNG begins.
pub(super) const SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";

/// How many other keywords an error message shows.
const MAX_SHOWN_KEYWORDS: usize = 5;

/// The text chunks of a PNG, still in base64; the first of each keyword.
pub(super) struct CardChunks<'a> {
    /// V1 or V2, or the fallback that a V3 writer adds for older readers.
    pub(super) chara: Option<&'a [u8]>,
    /// V3.
    pub(super) ccv3: Option<&'a [u8]>,
    /// The file ended inside a later chunk.
    pub(super) cut: Option<CardError>,
}

/// Walks the chunks up to `IEND`; what follows it is ignored.
///
/// # Errors
/// [`CardError::PngCut`] or [`CardError::PngWithoutCard`] when neither chunk is there.
pub(super) fn card_chunks(png: &[u8]) -> Result<CardChunks<'_>, CardError> {
    let mut found = CardChunks { chara: None, ccv3: None, cut: None };
    let mut others: Vec<String> = Vec::new();
    let mut offset = SIGNATURE.len();
    while offset < png.len() {
        let Some(header) = png.get(offset..offset + 8) else {
            found.cut = Some(cut("?", offset, 8, png.len() - offset));
            break;
        };
        let length = u32::from_be_bytes([header[0], header[1], header[2], header[3]]);
        let kind = &header[4..];
        let rest = &png[offset + 8..];
        let Some(data) = rest.get(..length as usize) else {
            found.cut = Some(cut(&printable(kind), offset, u64::from(length), rest.len()));
            break;
        };
        match kind {
            b"IEND" => break,
            b"tEXt" => {
                let end = data.iter().position(|&b| b == 0).unwrap_or(data.len());
                let (keyword, text) = (&data[..end], data.get(end + 1..).unwrap_or_default());
                if keyword.eq_ignore_ascii_case(b"ccv3") {
                    found.ccv3.get_or_insert(text);
                } else if keyword.eq_ignore_ascii_case(b"chara") {
                    found.chara.get_or_insert(text);
                } else if others.len() < MAX_SHOWN_KEYWORDS {
                    others.push(format!("`{}`", printable(keyword)));
                }
            }
            b"zTXt" | b"iTXt" if others.len() < MAX_SHOWN_KEYWORDS => {
                let end = data.iter().position(|&b| b == 0).unwrap_or(data.len());
                others.push(format!("`{}` ({})", printable(&data[..end]), printable(kind)));
            }
            _ => {}
        }
        offset += 12 + length as usize; // length, type and checksum have four bytes each
    }
    match (&found, found.chara.or(found.ccv3)) {
        (_, Some(_)) => Ok(found),
        (CardChunks { cut: Some(_), .. }, None) => {
            Err(found.cut.take().expect("matched as present"))
        }
        (_, None) if others.is_empty() => Err(CardError::PngWithoutCard { others: String::new() }),
        _ => Err(CardError::PngWithoutCard { others: format!("; it has {}", others.join(", ")) }),
    }
}

fn cut(chunk: &str, offset: usize, announced: u64, left: usize) -> CardError {
    CardError::PngCut { chunk: chunk.to_owned(), offset, announced, left }
}

/// Bytes from a file as a short text that is safe to show.
fn printable(bytes: &[u8]) -> String {
    bytes.iter().take(79).flat_map(|&b| b.escape_ascii()).map(char::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
        let mut bytes = (data.len() as u32).to_be_bytes().to_vec();
        bytes.extend_from_slice(kind);
        bytes.extend_from_slice(data);
        bytes.extend_from_slice(b"CRC!");
        bytes
    }

    fn png(chunks: &[Vec<u8>]) -> Vec<u8> {
        [SIGNATURE.to_vec(), chunks.concat()].concat()
    }

    #[test]
    fn the_first_of_each_keyword_counts_whatever_its_case() {
        let file = png(&[
            chunk(b"tEXt", b"Chara\0one"),
            chunk(b"tEXt", b"chara\0two"),
            chunk(b"tEXt", b"CCV3\0three"),
            chunk(b"IEND", b""),
            b"trailing bytes".to_vec(),
        ]);
        let found = card_chunks(&file).unwrap();
        assert_eq!((found.chara, found.ccv3), (Some(&b"one"[..]), Some(&b"three"[..])));
        assert!(found.cut.is_none());
    }

    #[test]
    fn an_absurd_length_is_a_cut_file_not_an_allocation() {
        let mut file = png(&[chunk(b"tEXt", b"chara\0one")]);
        file.extend_from_slice(b"\xff\xff\xff\xfftEXtccv3\0abc");
        let found = card_chunks(&file).unwrap();
        assert_eq!(found.chara, Some(&b"one"[..]));
        assert!(
            found.cut.unwrap().to_string().contains("should have 4294967295 bytes, 8 are left")
        );
    }

    #[test]
    fn other_text_chunks_are_told() {
        let file = png(&[chunk(b"tEXt", b"parameters\0a cat"), chunk(b"zTXt", b"chara\0\0x")]);
        let error = card_chunks(&file).err().unwrap().to_string();
        assert_eq!(
            error,
            "the PNG holds no character: no `chara` or `ccv3` text chunk; it has `parameters`, \
             `chara` (zTXt)"
        );
        assert!(card_chunks(SIGNATURE).is_err());
    }
}

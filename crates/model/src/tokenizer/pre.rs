//! The pre-tokenizers that a GGUF file names by `tokenizer.ggml.pre`.
//!
//! A GGUF tokenizer keeps vocabulary and merges but only a name for the rules that cut
//! text into words. This table gives each name the pipeline of the Hugging Face
//! tokenizer behind it, so that the ids agree; a name that is not here is refused.
//!
//! Sources: the names and their groups are those of llama.cpp, `src/llama-vocab.cpp`,
//! commit 00ad355e; expressions and normalisers are those of the `tokenizer.json` of the
//! models (Qwen2.5/3/3.5, Llama-3.x, GLM-4.7, LFM2, Granite-4, MiniMax-M2, DeepSeek-V3,
//! -Coder and -V2-Lite, R1-Distill-Qwen, GPT-NeoX, EXAONE-3.5, BLOOM, Falcon, SmolLM2,
//! Mistral-Nemo, gpt-oss, MiniCPM5), as collected in actual-computer/toks,
//! `docs/coverage.md` and `census/coverage.json`, commit 89adbba2. Llama.cpp spells some
//! of them differently because its engine knows no `(?i:)` and no `\p{Lu}`.
//! For `starcoder`, `refact`, `codeshell`, `phi-2`, `jais`, `falcon`, `tekken`, `gpt-4o` and
//! `llama4` only the expressions were found there; they are taken to normalise nothing.

use tokenizers::SplitDelimiterBehavior;
use tokenizers::normalizers::{NFC, NFKC, NormalizerWrapper};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::punctuation::Punctuation;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};

/// What a pre-tokenizer name stands for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pre {
    words: Words,
    form: Form,
    /// A word that is a token as a whole becomes that token, whatever the merges say.
    pub ignore_merges: bool,
    /// Whether encoding adds the BOS token where the file does not say.
    pub adds_bos: bool,
    /// A caution for the user, where the name promises less than it should.
    pub note: Option<&'static str>,
}

/// How text is cut into words, before or together with the byte mapping.
#[derive(Debug, Clone, Copy)]
enum Words {
    /// GPT-2's expression.
    Gpt2,
    /// Each digit by itself, then GPT-2's expression.
    DigitsGpt2,
    /// These expressions one after the other, each match cut out.
    Splits(&'static [&'static str]),
    /// As `Splits`, then each digit by itself.
    SplitsDigits(&'static [&'static str]),
    /// Falcon's: runs of punctuation, GPT-2, runs of digits, threes of digits. The last
    /// two see the mapped bytes, so that a byte shown as `²` counts as a digit; so they do
    /// in the original.
    Falcon,
}

/// Unicode normalisation before everything else.
#[derive(Debug, Clone, Copy)]
enum Form {
    AsIs,
    Nfc,
    Nfkc,
}

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN35: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const MINICPM5: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const BLOOM: &str = " ?[^(\\s|[.,!?\u{2026}\u{3002}\u{FF0C}\u{3001}\u{964}\u{6D4}\u{60C}])]+";

/// DeepSeek's first three generations cut by several expressions in turn.
const DEEPSEEK_V3: &[&str] = &[
    r"\p{N}{1,3}",
    "[\u{4E00}-\u{9FA5}\u{3040}-\u{309F}\u{30A0}-\u{30FF}]+",
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
];
const DEEPSEEK_CODER: &[&str] = &[
    "[\r\n]",
    r"\s?\p{L}+",
    r"\s?\p{P}+",
    "[\u{4E00}-\u{9FA5}\u{800}-\u{4E00}\u{AC00}-\u{D7FF}]+",
];
const DEEPSEEK_LLM: &[&str] = &[
    "[\r\n]",
    "\\s?[A-Za-z\u{B5}\u{C0}-\u{D6}\u{D8}-\u{F6}\u{F8}-\u{1BA}\u{1BC}-\u{1BF}\u{1C4}-\u{293}\
     \u{295}-\u{2AF}\u{370}-\u{373}\u{376}\u{377}\u{37B}-\u{37D}\u{37F}\u{386}\
     \u{388}-\u{38A}\u{38C}\u{38E}-\u{3A1}\u{3A3}-\u{3F5}\u{3F7}-\u{481}\u{48A}-\u{52F}\
     \u{531}-\u{556}\u{10A0}-\u{10C5}\u{13A0}-\u{13F5}\u{13F8}-\u{13FD}\u{1C90}-\u{1CBA}\
     \u{1CBD}-\u{1CBF}\u{1D00}-\u{1D2B}\u{1D6B}-\u{1D77}\u{1D79}-\u{1D9A}\
     \u{1E00}-\u{1F15}\u{1F18}-\u{1F1D}\u{1F20}-\u{1F45}\u{1F48}-\u{1F4D}\
     \u{1F50}-\u{1F57}\u{1F59}\u{1F5B}\u{1F5D}\u{1F5F}-\u{1F7D}\u{1F80}-\u{1FB4}\
     \u{1FB6}-\u{1FBC}\u{1FBE}\u{1FC2}-\u{1FC4}\u{1FC6}-\u{1FCC}\u{1FD0}-\u{1FD3}\
     \u{1FD6}-\u{1FDB}\u{1FE0}-\u{1FEC}\u{1FF2}-\u{1FF4}\u{1FF6}-\u{1FFC}\u{2102}\u{2107}\
     \u{210A}-\u{2113}\u{2115}\u{2119}-\u{211D}\u{2124}\u{2126}\u{2128}\u{212A}-\u{212D}\
     \u{212F}-\u{2134}\u{2139}\u{213C}-\u{213F}\u{2145}-\u{2149}\u{214E}\u{2183}\u{2184}\
     \u{2C00}-\u{2C7B}\u{2C7E}-\u{2CE4}\u{2CEB}-\u{2CEE}\u{2CF2}\u{2CF3}\u{A640}-\u{A66D}\
     \u{A680}-\u{A69B}\u{A722}-\u{A76F}\u{A771}-\u{A787}\u{A78B}-\u{A78E}\
     \u{AB70}-\u{ABBF}\u{FB00}-\u{FB06}\u{FB13}-\u{FB17}\u{FF21}-\u{FF3A}\
     \u{FF41}-\u{FF5A}\u{10400}-\u{1044F}\u{104B0}-\u{104D3}\u{104D8}-\u{104FB}\
     \u{10C80}-\u{10CB2}\u{10CC0}-\u{10CF2}\u{118A0}-\u{118DF}\u{1E900}-\u{1E943}]+",
    "\\s?[!-/:-~\u{FF01}-\u{FF0F}\u{FF1A}-\u{FF5E}\u{2018}-\u{201F}\u{3000}-\u{3002}]+",
    r"\s+$",
    "[\u{4E00}-\u{9FA5}\u{800}-\u{4E00}\u{AC00}-\u{D7FF}]+",
];

/// Llama.cpp's guess for files made before pre-tokenizers had names.
const LLAMA_CPP_DEFAULT: &[&str] = &[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"];

/// The pre-tokenizer of this name, or `None`.
pub(super) fn by_name(name: &str) -> Option<Pre> {
    let plain =
        |words, form| Pre { words, form, ignore_merges: false, adds_bos: false, note: None };
    let whole_words =
        |words, adds_bos| Pre { ignore_merges: true, adds_bos, ..plain(words, Form::AsIs) };
    Some(match name {
        "llama-bpe" | "llama3" | "llama-v3" | "lfm2" => whole_words(Words::Splits(&[LLAMA3]), true),
        "chatglm-bpe" | "glm4" => whole_words(Words::Splits(&[LLAMA3]), false),
        "dbrx" | "smaug-bpe" => plain(Words::Splits(&[LLAMA3]), Form::AsIs),
        "qwen2" | "deepseek-r1-qwen" | "stablelm2" => plain(Words::Splits(&[QWEN2]), Form::Nfc),
        "qwen35" => plain(Words::Splits(&[QWEN35]), Form::Nfc),
        "tekken" => whole_words(Words::Splits(&[TEKKEN]), true),
        "gpt-4o" | "llama4" => plain(Words::Splits(&[GPT4O]), Form::AsIs),
        "minimax-m2" => plain(Words::Splits(&[GPT4O]), Form::Nfc),
        "minicpm5" => plain(Words::Splits(&[r"\p{N}{1,3}", MINICPM5]), Form::AsIs),
        "gpt-2" | "phi-2" | "jais" => plain(Words::Gpt2, Form::AsIs),
        "mpt" | "olmo" => plain(Words::Gpt2, Form::Nfc),
        "smollm" | "starcoder" | "refact" | "codeshell" => plain(Words::DigitsGpt2, Form::AsIs),
        "command-r" => plain(Words::DigitsGpt2, Form::Nfc),
        "exaone" => plain(Words::DigitsGpt2, Form::Nfkc),
        "deepseek-v3" => plain(Words::Splits(DEEPSEEK_V3), Form::AsIs),
        "deepseek-llm" => plain(Words::SplitsDigits(DEEPSEEK_LLM), Form::AsIs),
        "deepseek-coder" => plain(Words::SplitsDigits(DEEPSEEK_CODER), Form::AsIs),
        "falcon" => plain(Words::Falcon, Form::AsIs),
        "bloom" => plain(Words::Splits(&[BLOOM]), Form::AsIs),
        "default" => Pre {
            note: Some(
                "the file names the pre-tokenizer `default`, llama.cpp's guess for old files; \
                 its ids may differ from those that the model was trained on",
            ),
            ..plain(Words::Splits(LLAMA_CPP_DEFAULT), Form::AsIs)
        },
        _ => return None,
    })
}

/// The names that [`by_name`] knows, for tests.
#[cfg(test)]
pub(super) const NAMES: &[&str] = &[
    "llama-bpe",
    "llama3",
    "llama-v3",
    "lfm2",
    "chatglm-bpe",
    "glm4",
    "dbrx",
    "smaug-bpe",
    "qwen2",
    "deepseek-r1-qwen",
    "stablelm2",
    "qwen35",
    "tekken",
    "gpt-4o",
    "llama4",
    "minimax-m2",
    "minicpm5",
    "gpt-2",
    "phi-2",
    "jais",
    "mpt",
    "olmo",
    "smollm",
    "starcoder",
    "refact",
    "codeshell",
    "command-r",
    "exaone",
    "deepseek-v3",
    "deepseek-llm",
    "deepseek-coder",
    "falcon",
    "bloom",
    "default",
];

impl Pre {
    /// The normaliser, if there is one.
    pub(super) fn normalizer(&self) -> Option<NormalizerWrapper> {
        match self.form {
            Form::AsIs => None,
            Form::Nfc => Some(NormalizerWrapper::NFC(NFC)),
            Form::Nfkc => Some(NormalizerWrapper::NFKC(NFKC)),
        }
    }

    /// The steps that cut text into words of mapped bytes.
    pub(super) fn pre_tokenizer(&self) -> tokenizers::Result<PreTokenizerWrapper> {
        // `use_regex` is GPT-2's expression; without it only bytes are mapped.
        let bytes = |use_regex| ByteLevel::new(false, true, use_regex).into();
        let mut steps: Vec<PreTokenizerWrapper> = Vec::new();
        match self.words {
            Words::Gpt2 => steps.push(bytes(true)),
            Words::DigitsGpt2 => steps.extend([Digits::new(true).into(), bytes(true)]),
            Words::Splits(expressions) => {
                splits(&mut steps, expressions)?;
                steps.push(bytes(false));
            }
            Words::SplitsDigits(expressions) => {
                splits(&mut steps, expressions)?;
                steps.extend([Digits::new(true).into(), bytes(false)]);
            }
            Words::Falcon => {
                let runs = Punctuation::new(SplitDelimiterBehavior::Contiguous);
                steps.extend([runs.into(), bytes(true), Digits::new(false).into()]);
                splits(&mut steps, &["[0-9][0-9][0-9]"])?;
            }
        }
        Ok(Sequence::new(steps).into())
    }
}

fn splits(steps: &mut Vec<PreTokenizerWrapper>, expressions: &[&str]) -> tokenizers::Result<()> {
    for expression in expressions {
        let pattern = SplitPattern::Regex((*expression).to_owned());
        steps.push(Split::new(pattern, SplitDelimiterBehavior::Isolated, false)?.into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};

    use super::*;

    /// The words that a name cuts a text into, with the byte mapping's space shown as `_`.
    fn words(name: &str, text: &str) -> Vec<String> {
        let steps = by_name(name).unwrap().pre_tokenizer().unwrap();
        let mut cut = PreTokenizedString::from(text);
        steps.pre_tokenize(&mut cut).unwrap();
        cut.get_splits(OffsetReferential::Normalized, OffsetType::Byte)
            .into_iter()
            .map(|(word, _, _)| word.replace('Ġ', "_").replace('Ċ', "\\n"))
            .collect()
    }

    #[test]
    fn every_name_compiles() {
        for name in NAMES {
            assert!(by_name(name).unwrap().pre_tokenizer().is_ok(), "{name}");
        }
        assert!(by_name("no-such-name").is_none());
    }

    #[test]
    fn digits_and_contractions_by_hand() {
        assert_eq!(words("gpt-2", "it's 1234  x"), ["it", "'s", "_1234", "_", "_x"]);
        assert_eq!(words("smollm", "it's 12"), ["it", "'s", "_", "1", "2"]);
        assert_eq!(
            words("llama-bpe", "IT'S 1234\n\nx"),
            ["IT", "'S", "_", "123", "4", "\\n\\n", "x"]
        );
        assert_eq!(words("qwen2", "12 ab"), ["1", "2", "_ab"]);
        assert_eq!(words("tekken", "fooBAR/\nx 12"), ["foo", "BAR", "/\\n", "x", "_", "1", "2"]);
        assert_eq!(words("gpt-4o", "it's ABc"), ["it's", "_ABc"]);
        assert_eq!(words("falcon", "a 1234!?"), ["a", "_", "123", "4", "!?"]);
        assert_eq!(words("deepseek-v3", "12345 ab"), ["123", "45", "_ab"]);
        assert_eq!(words("deepseek-coder", "a 12\n"), ["a", "_", "1", "2", "\\n"]);
        assert_eq!(words("deepseek-llm", "ab, 12  "), ["ab", ",", "_", "1", "2", "__"]);
        assert_eq!(words("default", "a 1234."), ["a", "_", "123", "4", "."]);
        assert_eq!(words("bloom", "a b, c"), ["a", "_b", ",", "_c"]);
    }
}

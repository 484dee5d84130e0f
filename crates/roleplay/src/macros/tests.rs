//! What macros become, and what bombs do not.

use super::*;
use proptest::prelude::*;
use rand_core::SeedableRng;
use rand_xoshiro::Xoshiro256PlusPlus;

fn context() -> MacroContext {
    let now = DateTime::parse_from_rfc3339("2024-10-05T18:04:09+02:00").unwrap();
    MacroContext {
        description: "{{char}} keeps the light.".into(),
        personality: "gruff".into(),
        persona: "{{user}} rows.".into(),
        message_examples: "{{user}}: hi".into(),
        last_message: "a {{char}} b".into(),
        last_user_message: "u".into(),
        last_character_message: "c".into(),
        last_message_id: Some(7),
        current_swipe_id: Some(2),
        last_swipe_id: Some(3),
        input: "typing".into(),
        model: "small".into(),
        max_prompt: Some(4096),
        outlets: [("here".to_owned(), "from outside".to_owned())].into(),
        idle: Some(TimeDelta::minutes(5)),
        chat_id: "chat 1".into(),
        ..MacroContext::new("Marrow", "Ann", now)
    }
}

fn expand_with(context: &MacroContext, variables: &mut Variables, text: &str) -> Expansion {
    let mut random = Xoshiro256PlusPlus::seed_from_u64(1);
    Expander::new(context, variables, &mut random).expand(text)
}

fn expand(text: &str) -> Expansion {
    expand_with(&context(), &mut Variables::default(), text)
}

#[track_caller]
fn check(text: &str, expected: &str) {
    let expansion = expand(text);
    assert_eq!(expansion.text, expected, "{text}");
    assert_eq!(expansion.unknown, [""; 0], "{text}");
}

#[track_caller]
fn check_left(text: &str, expected: &str, unknown: &[&str]) {
    let expansion = expand(text);
    assert_eq!(expansion.text, expected, "{text}");
    assert_eq!(expansion.unknown, unknown, "{text}");
}

#[test]
fn names_in_any_case_and_old_forms() {
    check(
        "{{char}} {{CHAR}} {{ Char }} <BOT> <char> <Bot>",
        "Marrow Marrow Marrow Marrow Marrow Marrow",
    );
    check("{{user}}/<USER>/<user>", "Ann/Ann/Ann");
    check("{{group}} {{charIfNotGroup}}", "Marrow Marrow");
    check("{{char}}，你好。<b>{{user}}</b>", "Marrow，你好。<b>Ann</b>");
    let mut group = context();
    group.group = vec!["Marrow".into(), "Kit".into()];
    let text = "{{group}}|<GROUP>|{{charIfNotGroup}}";
    let expansion = expand_with(&group, &mut Variables::default(), text);
    assert_eq!(expansion.text, "Marrow, Kit|Marrow, Kit|Marrow, Kit");
}

#[test]
fn card_fields_are_expanded_but_names_and_messages_are_not() {
    check("{{description}}", "Marrow keeps the light.");
    check("{{persona}} {{personality}}{{scenario}}", "Ann rows. gruff");
    check("{{mesExamples}}", "Ann: hi");
    check("{{lastMessage}}", "a {{char}} b");
    let mut sly = context();
    sly.user = "{{user}}{{char}}".into();
    let expansion = expand_with(&sly, &mut Variables::default(), "{{user}} <USER>");
    assert_eq!(expansion.text, "{{user}}{{char}} {{user}}{{char}}");
}

#[test]
fn state_of_the_chat() {
    check("{{lastUserMessage}}{{lastCharMessage}}{{lastMessageId}}", "uc7");
    check(
        "{{currentSwipeId}}/{{lastSwipeId}} {{input}} {{model}} {{maxPrompt}}",
        "2/3 typing small 4096",
    );
    check("[{{outlet::here}}][{{outlet::nowhere}}]", "[from outside][]");
}

#[test]
fn time_comes_from_the_context() {
    check("{{time}} {{date}} {{weekday}}", "6:04 PM October 5, 2024 Saturday");
    check("{{isodate}} {{isotime}}", "2024-10-05 18:04");
    check("{{datetimeformat DD.MM.YYYY HH:mm}}", "05.10.2024 18:04");
    check("{{datetimeformat::YYYY年M月D日}}", "2024年10月5日");
    check("{{time_UTC-4}} {{time::UTC+0}}", "12:04 PM 4:04 PM");
    check("{{idle_duration}}", "5 minutes");
}

#[test]
fn white_space_and_removal() {
    check("a{{newline}}b{{noop}}c{{space::3}}d", "a\nbc   d");
    check("a\n\n{{trim}}\r\n\nb", "ab");
    check("{{newline::2}}{{trim}}x", "x");
    check("a{{// not {{user}} this}}b{{comment: nor that}}c", "abc");
    check("a{{//}} several\nlines {{char}} {{///}}b", "ab");
    check("{{reverse:灯塔 ab}}", "ba 塔灯");
    check(r"\{\{char\}\} \x", r"{{char}} \x");
}

#[test]
fn hidden_keys_and_banned_words_are_collected() {
    let expansion = expand(r#"a{{hidden_key:storm {{char}}}}b{{banned "delve"}}c"#);
    assert_eq!(expansion.text, "abc");
    assert_eq!(expansion.hidden_keys, ["storm Marrow"]);
    assert_eq!(expansion.banned, ["delve"]);
}

#[test]
fn random_draws_from_all_options_and_knows_escapes() {
    let mut seen = std::collections::BTreeSet::new();
    let text = r"{{random:x\, y, {{char}} ,z}}|".repeat(100);
    let expansion = expand(&text);
    seen.extend(expansion.text.split('|').filter(|s| !s.is_empty()).map(str::to_owned));
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), ["Marrow", "x, y", "z"]);
    check("{{random::only}}{{random}}", "only");
    check("{{random::a,b::a,b}}", "a,b"); // `::` separates, commas then do not
}

#[test]
fn pick_is_fixed_by_chat_text_and_place() {
    let text = "{{pick::1::2::3::4::5::6::7::8}}";
    assert_eq!(expand(text), expand(text));
    let elsewhere = |prefix: &str| expand(&format!("{prefix}{text}")).text;
    let picks: std::collections::BTreeSet<String> =
        (0..40).map(|i| elsewhere(&"-".repeat(i)).trim_start_matches('-').to_owned()).collect();
    assert!(picks.len() > 4, "{picks:?}");
    let mut other = context();
    let in_chat = |i: usize, other: &mut MacroContext| {
        other.chat_id = i.to_string();
        expand_with(other, &mut Variables::default(), text).text
    };
    let chats: std::collections::BTreeSet<String> =
        (0..40).map(|i| in_chat(i, &mut other)).collect();
    assert!(chats.len() > 4, "{chats:?}");
}

#[test]
fn rolls() {
    check("{{roll:1}} {{roll::2d1+3}} {{roll 3d1-4}}", "1 5 -1");
    check_left("{{roll:many}}", "{{roll:many}}", &["roll"]);
}

#[test]
fn variables_are_set_read_and_counted() {
    check("{{setvar::x::5}}{{addvar::x::2}}{{getvar::x}}", "7");
    check("{{setvar::x::a}}{{addvar::x::b}}{{getvar x}}", "ab");
    check("{{incvar::n}}{{incvar::n}}{{decvar::n}}[{{getvar::none}}]", "121[]");
    check(
        "{{setvar::x::1}}{{getglobalvar::x}}{{setglobalvar::x::2}}{{getglobalvar::x}}{{getvar::x}}",
        "21",
    );
    check("{{ setvar :: Marrow_mood :: dry wit }}{{getvar::{{char}}_mood}}", "dry wit");
    check("{{setvar::x::1}}{{hasvar::x}}{{deletevar::x}}{{hasvar::x}}", "truefalse");
    check("{{setvar x}}\n  two\n    lines\n{{/setvar}}{{getvar::x}}", "two\n  lines");
    let mut variables = Variables::default();
    expand_with(&context(), &mut variables, "{{setvar::a::1}}{{setglobalvar::b::2}}");
    let json = serde_json::to_string(&variables).unwrap();
    assert_eq!(json, r#"{"local":{"a":"1"},"global":{"b":"2"}}"#);
    assert_eq!(expand_with(&context(), &mut variables, "{{getvar::a}}").text, "1");
}

#[test]
fn conditions() {
    check("{{if description}}yes{{else}}no{{/if}}", "yes");
    check("{{if scenario}}yes{{else}}no{{/if}}", "no");
    check("{{if !scenario}}yes{{/if}}", "yes");
    check("{{if {{getvar::x}}}}yes{{/if}}{{if off}}yes{{/if}}{{if 0}}yes{{/if}}", "");
    check("{{if a}}{{if 0}}x{{else}}y{{/if}}{{else}}z{{/if}}", "y");
    check("{{ if 1 }}\n    # A\n    b\n{{ /if }}", "# A\nb");
    check("{{#if 1}}\n x {{/if}}", "\n x ");
    check("{{if::1::then::else}} {{if::no::then::else}}", "then else");
    check("{{if 0}}{{setvar::x::1}}{{/if}}{{getvar::x}}", ""); // the other branch is not run
}

#[test]
fn the_original_is_used_once_and_only_in_overrides() {
    let context = context();
    let mut variables = Variables::default();
    let mut random = Xoshiro256PlusPlus::seed_from_u64(1);
    let mut expander = Expander::new(&context, &mut variables, &mut random);
    let expansion = expander.expand_override("A {{original}} B {{original}} C", "be {{char}}");
    assert_eq!(expansion.text, "A be Marrow B  C");
    let expansion = expander.expand("A {{original}}");
    assert_eq!(
        (expansion.text.as_str(), expansion.unknown),
        ("A {{original}}", vec!["original".into()])
    );
    let expansion = expander.expand_override("{{original}}", "x {{original}}");
    assert_eq!(expansion.text, "x ");
}

#[test]
fn unknown_macros_stay_and_are_named_once() {
    check_left(
        "{{foo}} {{foo::{{char}}}} {{bar x}}",
        "{{foo}} {{foo::Marrow}} {{bar x}}",
        &["foo", "bar"],
    );
    check_left("{{/if}} {{else}} {{}}", "{{/if}} {{else}} {{}}", &["/if", "else", ""]);
    check_left("{{foo}}{{char}}{{/foo}}", "{{foo}}Marrow{{/foo}}", &["foo"]);
    check_left("{{char::x}}", "{{char::x}}", &["char"]);
}

#[test]
fn unmatched_braces_are_text() {
    check("{{ {{char}}", "{{ Marrow");
    check("{{{char}}}", "{Marrow}");
    check("{{char}", "{{char}");
    check("}} {{char}} }}", "}} Marrow }}");
    check("{ char }", "{ char }");
}

#[test]
fn fields_do_not_enter_themselves() {
    let mut bomb = context();
    bomb.description = "d{{personality}}".into();
    bomb.personality = "p{{description}}".into();
    let expansion = expand_with(&bomb, &mut Variables::default(), "{{description}}");
    assert_eq!(expansion.text, "dp{{description}}");
    assert!(expansion.limited);
}

#[test]
fn doubling_variables_meet_their_limit() {
    let double = "{{setvar::a::{{getvar::a}}{{getvar::a}}}}".repeat(60);
    let expansion = expand(&format!("{{{{setvar::a::x}}}}{double}"));
    assert!(expansion.limited);
    assert_eq!(expansion.text, "");
    let mut variables = Variables::default();
    expand_with(&context(), &mut variables, &format!("{{{{setvar::a::x}}}}{double}"));
    assert!(variables.local["a"].len() <= 64 << 10);
}

#[test]
fn output_nesting_and_number_are_limited() {
    let mut bomb = context();
    bomb.description = "x".repeat(1 << 20);
    let expansion = expand_with(&bomb, &mut Variables::default(), &"{{description}}".repeat(100));
    assert!(expansion.limited && expansion.text.len() < 2 * MAX_ADDED_BYTES);
    let deep = format!("{}x{}", "{{reverse::".repeat(1000), "}}".repeat(1000));
    assert!(expand(&deep).limited);
    let deep_unknown = format!("{}x{}", "{{a ".repeat(1000), "}}".repeat(1000));
    assert!(expand(&deep_unknown).limited);
    assert!(expand(&"{{noop}}".repeat(MAX_MACROS + 1)).limited);
    assert!(!expand(&"{{".repeat(100_000)).limited);
    let many = "{{}}".repeat(MAX_TEXT_BYTES / 4);
    let expansion = expand(&many);
    assert!(expansion.limited && expansion.text == many);
    let long = "{{char}}".repeat(MAX_TEXT_BYTES / 8 + 1);
    let expansion = expand(&long);
    assert!(expansion.limited && expansion.text == long);
    let mut comments = context();
    comments.description = format!("{{{{// {} }}}}", "x".repeat(1 << 20));
    let expansion =
        expand_with(&comments, &mut Variables::default(), &"{{description}}".repeat(5000));
    assert!(expansion.limited);
}

#[test]
fn failed_arguments_are_not_expanded_twice() {
    let mut variables = Variables::default();
    let text = "{{roll {{incvar::n}}x}}{{foo {{incvar::m}}}}";
    expand_with(&context(), &mut variables, text);
    assert_eq!((variables.local["n"].as_str(), variables.local["m"].as_str()), ("1", "1"));
}

proptest! {
    #[test]
    fn plain_text_is_left_alone(text in "[^{<\\\\]*") {
        prop_assert_eq!(expand(&text).text, text);
    }

    #[test]
    fn no_text_panics(parts in prop::collection::vec(
        prop::sample::select(vec![
            "{{", "}}", "{", "::", ":", " ", "#", "/", "//", "///", "!", ",", "\\", "\n", "灯", "é",
            "if", "else", "char", "random", "pick", "setvar", "getvar", "x", "trim", "roll", "2d6",
            "reverse", "datetimeformat", "[", "YYYY", "time_UTC", "+2", "description", "<USER>",
            "original", "space", "hidden_key",
        ]), 0..60))
    {
        expand(&parts.concat());
    }
}

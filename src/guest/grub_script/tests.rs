//! The language, whole and broken.

use super::*;

fn heads(statements: &[Statement]) -> Vec<String> {
    let text = |command: &Command| String::from_utf8_lossy(command.text).into_owned();
    statements
        .iter()
        .map(|statement| match statement {
            Statement::Command(command) => text(command),
            Statement::Block { head, body } => format!("{} {{{}}}", text(head), heads(body).join("; ")),
            Statement::If { branches, otherwise } => {
                let branches: Vec<_> = branches
                    .iter()
                    .map(|(c, b)| format!("{} ? {}", heads(c).join(";"), heads(b).join(";")))
                    .collect();
                format!("if {} : {}", branches.join(" | "), heads(otherwise).join(";"))
            }
            Statement::Loop { line } => format!("loop {line}"),
        })
        .collect()
}

#[test]
fn blocks_conditions_and_loops_are_taken_apart() {
    let script = parse(
            b"set a=1;set b=2 # comment\nif [ x$a = xy ] ; then c\nelif d; then e; f\nelse\n g; fi\n\
              function h {\n i\n}\nmenuentry 'j {k}' --id \"l m\" {\n linux /n \\\n  o\n}\nfor p in q; do r; done\ns",
        );
    assert_eq!(script.problems, [""; 0]);
    assert_eq!(
        heads(&script.statements),
        [
            "set a=1",
            "set b=2",
            "if [ x$a = xy ] ? c | d ? e;f : g",
            "function h {i}",
            "menuentry 'j {k}' --id \"l m\" {linux /n \\\n  o}",
            "loop 13",
            "s",
        ]
    );
}

#[test]
fn words_lose_their_quotes_and_keep_their_variables() {
    let script = parse(b"a 'it'\\''s' \"b \\\"$c ${d}e\\x\" $f'' \\$g $'h' ($root)/i $");
    let [Statement::Command(command)] = &*script.statements else {
        panic!("{script:?}");
    };
    assert_eq!(command.words[1].literal(), Some(&b"it's"[..]));
    let shown = format!("{:?}", command.words[2].pieces.len());
    assert_eq!(shown, "5");
    assert!(matches!(
        command.words[3].pieces[..],
        [Piece::Variable {
            name: b"f",
            quoted: false
        }]
    ));
    assert_eq!(command.words[4].literal(), Some(&b"$g"[..]));
    assert_eq!(command.words[7].literal(), Some(&b"$"[..]));
    assert_eq!(command.words.len(), 8);
    assert_eq!(command.text_after(6), b"$");
}

#[test]
fn broken_scripts_give_what_can_be_read() {
    let script = parse(b"}\nfi\nmenuentry a {\n linux /b\n");
    assert_eq!(heads(&script.statements), ["menuentry a {linux /b}"]);
    assert_eq!(script.problems.len(), 3);
    for text in [
        &b"if"[..],
        b"if [ a",
        b"if a; then",
        b"menuentry",
        b"menuentry {",
        b"'",
        b"${",
        b"\\",
        b"for",
    ] {
        parse(text);
    }
    let deep = [
        b"if a; then\n".repeat(100_000),
        b"{".repeat(100_000),
        b"submenu x {".repeat(9999),
    ];
    for text in &deep {
        assert!(parse(text).problems.len() < 20);
    }
}

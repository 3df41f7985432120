//! The language of grub.cfg, as the GRUB manual's "Writing full configuration files directly" has it: words with
//! quotes and variables, commands, `if`, `function`, and blocks in braces. Reads what people have on their disks: a
//! brace or a `fi` that is missing or too many is noted and passed over.

/// Blocks and conditions in one another that are followed. mkconfig nests three deep.
const MAX_DEPTH: u32 = 64;

/// Words that are read: a menu of a hundred kernels has some ten thousand.
const MAX_WORDS: u32 = 200_000;

/// A script, taken apart.
#[derive(Debug, Default)]
pub(crate) struct Script<'a> {
    pub(crate) statements: Vec<Statement<'a>>,
    /// What was not as the language wants it, one sentence each.
    pub(crate) problems: Vec<String>,
}

#[derive(Debug)]
pub(crate) enum Statement<'a> {
    Command(Command<'a>),
    /// `menuentry`, `submenu` and `function`, with what stands in braces after them.
    Block {
        head: Command<'a>,
        body: Vec<Statement<'a>>,
    },
    /// `if` and its `elif`s, then `else`.
    If {
        branches: Vec<(Vec<Statement<'a>>, Vec<Statement<'a>>)>,
        otherwise: Vec<Statement<'a>>,
    },
    /// `for`, `while`, `until`: not followed.
    Loop {
        line: u32,
    },
}

#[derive(Debug)]
pub(crate) struct Command<'a> {
    /// Never empty.
    pub(crate) words: Vec<Word<'a>>,
    /// All of it as written.
    pub(crate) text: &'a [u8],
    /// From 1.
    pub(crate) line: u32,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Word<'a> {
    pub(crate) pieces: Vec<Piece<'a>>,
    /// An empty word in quotes is a word.
    pub(crate) quoted: bool,
    start: usize,
    end: usize,
    line: u32,
}

#[derive(Clone, Debug)]
pub(crate) enum Piece<'a> {
    Literal(Vec<u8>),
    /// By name; a bare one is split at blanks, a quoted one is not.
    Variable {
        name: &'a [u8],
        quoted: bool,
    },
}

#[derive(Clone, Debug)]
enum Token<'a> {
    Word(Word<'a>),
    Separator,
    Open,
    Close,
}

impl Word<'_> {
    /// The word if it has no variables.
    pub(crate) fn literal(&self) -> Option<&[u8]> {
        match &*self.pieces {
            [] => Some(b""),
            [Piece::Literal(text)] => Some(text),
            _ => None,
        }
    }

    fn is_keyword(&self, keyword: &[u8]) -> bool {
        !self.quoted && self.literal() == Some(keyword)
    }
}

impl<'a> Command<'a> {
    /// What follows the word with that index, as written.
    pub(crate) fn text_after(&self, word: usize) -> &'a [u8] {
        let (Some(first), Some(word)) = (self.words.first(), self.words.get(word)) else {
            return b"";
        };
        let from = word.end.saturating_sub(first.start);
        self.text.get(from..).unwrap_or_default().trim_ascii()
    }
}

/// Takes a script apart. Never fails: what cannot be read is in the problems.
pub(crate) fn parse(source: &[u8]) -> Script<'_> {
    let tokens = Lexer {
        source,
        at: 0,
        line: 1,
        words: 0,
    };
    let mut parser = Parser {
        source,
        tokens: tokens.peekable(),
        problems: Vec::new(),
    };
    let mut statements = Vec::new();
    loop {
        let (more, stop) = parser.list(&[], false, 0);
        statements.extend(more);
        if stop == Stop::End {
            break;
        }
    }
    Script {
        statements,
        problems: parser.problems,
    }
}

struct Lexer<'a> {
    source: &'a [u8],
    at: usize,
    line: u32,
    words: u32,
}

impl<'a> Lexer<'a> {
    fn peek(&self) -> Option<u8> {
        self.source.get(self.at).copied()
    }

    fn next_byte(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at = self.at.saturating_add(1);
        if byte == b'\n' {
            self.line = self.line.saturating_add(1);
        }
        Some(byte)
    }

    /// A variable's name after its dollar sign; `None` if the dollar sign is only one.
    fn variable(&mut self) -> Option<&'a [u8]> {
        let rest = self.source.get(self.at..)?;
        let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
        let (skip, name) = if let Some(inside) = rest.strip_prefix(b"{") {
            let end = inside.iter().position(|byte| *byte == b'}')?;
            let name = inside.get(..end)?;
            // A brace that closes lines later is no name.
            if name.contains(&b'\n') {
                return None;
            }
            (end.saturating_add(2), name)
        } else if rest
            .first()
            .is_some_and(|byte| matches!(byte, b'?' | b'#' | b'@' | b'*'))
        {
            (1, rest.get(..1)?)
        } else {
            let end = rest.iter().position(|byte| !is_name(byte)).unwrap_or(rest.len());
            (end, rest.get(..end).filter(|name| !name.is_empty())?)
        };
        self.at = self.at.saturating_add(skip);
        Some(name)
    }

    fn word(&mut self) -> Word<'a> {
        let mut word = Word {
            start: self.at,
            line: self.line,
            ..Word::default()
        };
        let mut text = Vec::new();
        let mut quote = None;
        while let Some(byte) = self.peek() {
            if quote.is_none()
                && matches!(
                    byte,
                    b' ' | b'\t' | b'\r' | b'\n' | b';' | b'{' | b'}' | b'&' | b'|'
                )
            {
                break;
            }
            self.next_byte();
            match (quote, byte) {
                (None, b'\'' | b'"') => {
                    quote = Some(byte);
                    word.quoted = true;
                }
                (Some(open), close) if open == close => quote = None,
                (None | Some(b'"'), b'$') => match self.variable() {
                    Some(name) => {
                        if !text.is_empty() {
                            word.pieces.push(Piece::Literal(std::mem::take(&mut text)));
                        }
                        let quoted = quote.is_some();
                        word.pieces.push(Piece::Variable { name, quoted });
                    }
                    // `$"text"` is text to be translated.
                    None if self.peek() == Some(b'"') && quote.is_none() => {}
                    None => text.push(b'$'),
                },
                (None, b'\\') => match self.next_byte() {
                    Some(b'\n') | None => {}
                    Some(escaped) => text.push(escaped),
                },
                (Some(b'"'), b'\\') => match self.peek() {
                    Some(b'\n') => {
                        self.next_byte();
                    }
                    Some(b'"' | b'\\' | b'$') => text.extend(self.next_byte()),
                    _ => text.push(b'\\'),
                },
                _ => text.push(byte),
            }
        }
        if !text.is_empty() {
            word.pieces.push(Piece::Literal(text));
        }
        word.end = self.at;
        word
    }
}

impl<'a> Iterator for Lexer<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        loop {
            match self.peek()? {
                b' ' | b'\t' | b'\r' => {
                    self.next_byte();
                }
                b'\\' if self.source.get(self.at.saturating_add(1)) == Some(&b'\n') => {
                    self.next_byte();
                    self.next_byte();
                }
                b'#' => {
                    while self.peek().is_some_and(|byte| byte != b'\n') {
                        self.next_byte();
                    }
                }
                b'\n' | b';' | b'&' | b'|' => {
                    self.next_byte();
                    return Some(Token::Separator);
                }
                b'{' => {
                    self.next_byte();
                    return Some(Token::Open);
                }
                b'}' => {
                    self.next_byte();
                    return Some(Token::Close);
                }
                _ => {
                    self.words = self.words.saturating_add(1);
                    return (self.words <= MAX_WORDS).then(|| Token::Word(self.word()));
                }
            }
        }
    }
}

struct Parser<'a> {
    source: &'a [u8],
    tokens: std::iter::Peekable<Lexer<'a>>,
    problems: Vec<String>,
}

/// Why a list of statements ended.
#[derive(Clone, Copy, PartialEq)]
enum Stop {
    End,
    Close,
    Keyword(&'static [u8]),
}

/// Words that end a list in an `if` or a loop.
const STOPPERS: [&[u8]; 6] = [b"then", b"elif", b"else", b"fi", b"do", b"done"];

impl<'a> Parser<'a> {
    fn problem(&mut self, text: String) {
        // A hostile file is not repeated line by line.
        if self.problems.len() < 16 {
            self.problems.push(text);
        }
    }

    /// Statements up to one of the stopping words, a closing brace if `in_braces`, or the end.
    fn list(
        &mut self,
        stoppers: &[&'static [u8]],
        in_braces: bool,
        depth: u32,
    ) -> (Vec<Statement<'a>>, Stop) {
        let mut statements = Vec::new();
        loop {
            let word = match self.tokens.next() {
                None => return (statements, Stop::End),
                Some(Token::Separator) => continue,
                Some(Token::Close) if in_braces => return (statements, Stop::Close),
                Some(Token::Close) => {
                    self.problem("a closing brace that nothing opened".into());
                    continue;
                }
                Some(Token::Open) => {
                    if depth < MAX_DEPTH {
                        let (inside, _) = self.list(&[], true, depth.saturating_add(1));
                        statements.extend(inside);
                    }
                    continue;
                }
                Some(Token::Word(word)) => word,
            };
            let stopper = STOPPERS.into_iter().find(|stopper| word.is_keyword(stopper));
            if let Some(stopper) = stopper {
                if stoppers.contains(&stopper) {
                    return (statements, Stop::Keyword(stopper));
                }
                let text = String::from_utf8_lossy(stopper);
                self.problem(format!("line {}: {text} without its beginning", word.line));
                continue;
            }
            statements.extend(self.statement(word, depth));
        }
    }

    fn statement(&mut self, first: Word<'a>, depth: u32) -> Option<Statement<'a>> {
        if depth >= MAX_DEPTH {
            let line = first.line;
            self.problem(format!(
                "line {line}: blocks in one another more than {MAX_DEPTH} deep"
            ));
            self.command(first);
            return None;
        }
        let inner = depth.saturating_add(1);
        if first.is_keyword(b"if") {
            return Some(self.condition(first.line, inner));
        }
        for word in [&b"for"[..], b"while", b"until"] {
            if first.is_keyword(word) {
                let line = first.line;
                self.list(&[b"do"], false, inner);
                self.list(&[b"done"], false, inner);
                return Some(Statement::Loop { line });
            }
        }
        let is_block = [&b"menuentry"[..], b"submenu", b"function"]
            .iter()
            .any(|word| first.is_keyword(word));
        let head = self.command(first);
        if !is_block {
            return Some(Statement::Command(head));
        }
        // GRUB wants the brace on the same line; a separator before it is let pass.
        while matches!(self.tokens.peek(), Some(Token::Separator)) {
            self.tokens.next();
        }
        if !matches!(self.tokens.peek(), Some(Token::Open)) {
            self.problem(format!("line {}: no block in braces follows", head.line));
            return Some(Statement::Command(head));
        }
        self.tokens.next();
        let (body, stop) = self.list(&[], true, inner);
        if stop == Stop::End {
            self.problem(format!("line {}: the block is not closed", head.line));
        }
        Some(Statement::Block { head, body })
    }

    fn condition(&mut self, line: u32, depth: u32) -> Statement<'a> {
        let mut branches = Vec::new();
        let mut otherwise = Vec::new();
        loop {
            let (condition, stop) = self.list(&[b"then", b"fi"], false, depth);
            if stop != Stop::Keyword(b"then") {
                self.problem(format!("line {line}: if without then"));
                break;
            }
            let (body, stop) = self.list(&[b"elif", b"else", b"fi"], false, depth);
            branches.push((condition, body));
            match stop {
                Stop::Keyword(b"elif") => {}
                Stop::Keyword(b"else") => {
                    otherwise = self.list(&[b"fi"], false, depth).0;
                    break;
                }
                Stop::Keyword(_) => break,
                Stop::End | Stop::Close => {
                    self.problem(format!("line {line}: if without fi"));
                    break;
                }
            }
        }
        Statement::If { branches, otherwise }
    }

    /// The words of a command, up to a separator or a brace.
    fn command(&mut self, first: Word<'a>) -> Command<'a> {
        let (start, line) = (first.start, first.line);
        let mut end = first.end;
        let mut words = vec![first];
        while let Some(Token::Word(word)) = self.tokens.next_if(|token| matches!(token, Token::Word(_))) {
            end = word.end;
            words.push(word);
        }
        Command {
            words,
            text: self.source.get(start..end).unwrap_or_default(),
            line,
        }
    }
}

#[cfg(test)]
mod tests;

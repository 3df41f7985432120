//! Turns the bytes of a serial console into lines of plain text.

/// Longer than any line that a person could read; a guest that prints without end gets its line cut here.
const LONGEST_LINE: usize = 1000;

/// What a terminal would be doing (ECMA-48; the states of <https://vt100.net/emu/dec_ansi_parser>, without its actions).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Text,
    /// After ESC.
    Escape,
    /// After ESC and an intermediate byte: one more byte belongs to it.
    EscapeArgument,
    /// After ESC [, up to its final byte.
    ControlSequence,
    /// OSC, DCS, APC, PM, SOS: up to BEL or ESC \.
    String,
    /// ESC within a string.
    StringEscape,
}

/// Collects bytes, gives lines.
#[derive(Debug)]
pub(super) struct Console {
    state: State,
    line: Vec<u8>,
}

impl Console {
    pub(super) fn new() -> Self {
        Self {
            state: State::Text,
            line: Vec::new(),
        }
    }

    /// The lines that `bytes` complete, without empty ones.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        for &byte in bytes {
            let ended = match self.state {
                State::Text => self.text(byte),
                State::Escape => self.escape(byte),
                State::EscapeArgument => {
                    self.state = State::Text;
                    false
                }
                State::ControlSequence => self.control_sequence(byte),
                State::String => {
                    match byte {
                        0x07 => self.state = State::Text,
                        0x1b => self.state = State::StringEscape,
                        // Nobody sends a string over lines; a stray ESC P must not swallow the rest of a start.
                        b'\n' => self.state = State::Text,
                        _ => {}
                    }
                    false
                }
                State::StringEscape => {
                    self.state = if byte == b'\\' { State::Text } else { State::String };
                    false
                }
            };
            if ended {
                let line = plain(&self.line);
                self.line.clear();
                if !line.trim().is_empty() {
                    lines.push(line);
                }
            }
        }
        lines
    }

    /// What stands in the line that is not complete yet: prompts never are.
    pub(super) fn partial(&self) -> String {
        plain(&self.line)
    }

    /// Does the byte end a line?
    fn text(&mut self, byte: u8) -> bool {
        match byte {
            // A carriage return alone begins the same line anew: as a line of its own nothing is lost.
            b'\n' | b'\r' => return true,
            0x1b => self.state = State::Escape,
            0x08 => {
                self.line.pop();
            }
            b'\t' => self.line.push(b' '),
            0..=0x1f | 0x7f => {}
            _ => self.line.push(byte),
        }
        self.line.len() >= LONGEST_LINE
    }

    fn escape(&mut self, byte: u8) -> bool {
        self.state = match byte {
            b'[' => State::ControlSequence,
            b']' | b'P' | b'X' | b'^' | b'_' => State::String,
            0x20..=0x2f => State::EscapeArgument,
            0x1b => State::Escape,
            _ => State::Text,
        };
        // ESC c: the terminal is reset.
        byte == b'c'
    }

    fn control_sequence(&mut self, byte: u8) -> bool {
        match byte {
            0x40..=0x7e => {
                self.state = State::Text;
                // J clears the screen: what follows does not continue what stood there.
                byte == b'J'
            }
            0x1b => {
                self.state = State::Escape;
                false
            }
            b'\n' => {
                self.state = State::Text;
                true
            }
            _ => false,
        }
    }
}

/// Text without anything that a terminal would act upon.
fn plain(line: &[u8]) -> String {
    String::from_utf8_lossy(line)
        .chars()
        .filter(|character| !character.is_control() && !is_direction(*character))
        .collect()
}

/// Characters that reorder the text around them (Unicode Standard Annex 9).
fn is_direction(character: char) -> bool {
    matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_seabios_and_grub_print_becomes_plain_lines() {
        let mut console = Console::new();
        let lines = console.feed(
            b"\x1bc\x1b[?7l\x1b[2J\x1b[0mSeaBIOS (version 1.16.2)\r\n\r\n\x1b[0;30;47mWelcome to GR\x1b[10;13H\x1b[10;14HUB!\r\n",
        );
        assert_eq!(lines, ["SeaBIOS (version 1.16.2)", "Welcome to GRUB!"]);
        assert!(console.feed(b"physical login: ").is_empty());
        assert_eq!(console.partial(), "physical login: ");
    }

    #[test]
    fn a_string_sequence_is_swallowed_to_the_end_of_its_line_at_most() {
        let mut console = Console::new();
        let lines = console.feed(b"\x1b]0;rm -rf /\x07a\r\n\x1bPabc\x1b\\b\n\x1b_never ended\nc\n");
        assert_eq!(lines, ["a", "b", "c"]);
    }

    #[test]
    fn a_line_without_end_is_cut() {
        let mut console = Console::new();
        let lines = console.feed(&vec![b'x'; 10 * LONGEST_LINE]);
        assert_eq!(lines.len(), 10);
        assert!(console.partial().len() < LONGEST_LINE);
    }

    proptest! {
        #[test]
        fn nothing_that_a_terminal_acts_upon_comes_out(
            bytes in proptest::collection::vec(any::<u8>(), 0..4000),
            cut in 0usize..4000,
        ) {
            let (head, tail) = bytes.split_at(cut.min(bytes.len()));
            let mut console = Console::new();
            let mut lines = console.feed(head);
            lines.extend(console.feed(tail));
            lines.push(console.partial());
            prop_assert!(lines.iter().all(|line| line.chars().all(|character| !character.is_control())));

            let mut whole = Console::new();
            let mut at_once = whole.feed(&bytes);
            at_once.push(whole.partial());
            prop_assert_eq!(lines, at_once);
        }
    }
}

//! Where one answer ends and the next begins.
//!
//! The driver's parser keeps all of an answer until it is complete, however long that takes. So the length of each
//! answer is counted here, by following the marks and lengths of RESP2 and RESP3 and nothing else. Where the
//! parser might read the bytes differently, counting stops and the answer never ends here. So an answer that the parser
//! still keeps is never counted as complete.

/// The longest answer that is taken, in bytes. The longest that our scripts give is that of `inspect`:
/// a thousand waiters with ids of some 250 bytes each.
pub(super) const LONGEST: usize = 1024 * 1024;

/// The longest text of a number that says how much follows. An `i64` has 20 digits at most.
const MAX_DIGITS: usize = 24;

/// An answer is longer than [`LONGEST`].
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLong;

/// How much of the present answer has come.
#[derive(Debug)]
pub(super) struct Frames {
    /// Bytes of it.
    length: usize,
    /// Values that it lacks, the one under way included.
    lacking: usize,
    state: State,
}

#[derive(Debug)]
enum State {
    /// The next byte says what value begins.
    Mark,
    Line(Line),
    /// So much of a text and its line break are still to come.
    Text(usize),
    /// This is no answer. The parser will say so.
    Astray,
}

#[derive(Debug)]
struct Line {
    mark: u8,
    digits: [u8; MAX_DIGITS],
    length: usize,
}

impl Frames {
    pub(super) fn new() -> Self {
        Self {
            length: 0,
            lacking: 1,
            state: State::Mark,
        }
    }

    /// Reads on.
    pub(super) fn follow(&mut self, mut bytes: &[u8]) -> Result<(), TooLong> {
        while let Some((&byte, after)) = bytes.split_first() {
            bytes = match &mut self.state {
                State::Text(left) => {
                    let (taken, after) = bytes.split_at(bytes.len().min(*left));
                    *left -= taken.len();
                    self.length += taken.len();
                    if *left == 0 {
                        self.end(0);
                    }
                    after
                }
                State::Line(line) => {
                    let end = bytes.iter().position(|byte| *byte == b'\n');
                    let (part, after) = bytes.split_at(end.map_or(bytes.len(), |at| at + 1));
                    self.length += part.len();
                    if line.ends(part) {
                        let (mark, count) = (line.mark, line.count());
                        self.announced(mark, count);
                    }
                    after
                }
                State::Mark | State::Astray => {
                    self.length += 1;
                    self.begin(byte);
                    after
                }
            };
        }
        // One check for everything read at once is enough: the parser cannot hold more than that in between.
        if self.least() > LONGEST {
            return Err(TooLong);
        }
        Ok(())
    }

    /// What the answer will have at the very least, by what it says of itself.
    fn least(&self) -> usize {
        let text = match self.state {
            State::Text(left) => left,
            _ => 0,
        };
        let more = text.saturating_add(self.lacking);
        self.length.saturating_add(more)
    }

    fn begin(&mut self, mark: u8) {
        self.state = match self.state {
            State::Mark if b"+-:_,#($!=*~>%|".contains(&mark) => State::Line(Line::new(mark)),
            _ => State::Astray,
        };
    }

    /// The first line of a value is complete; `count` is what it says about the rest.
    fn announced(&mut self, mark: u8, count: Option<i64>) {
        let size = count.map(usize::try_from);
        match (mark, size) {
            (b'+' | b'-' | b':' | b'_' | b',' | b'#' | b'(', _)
            | (b'$' | b'*' | b'~' | b'>', Some(Err(_))) => self.end(0),
            (b'$' | b'!' | b'=', Some(Ok(size))) => {
                self.state = State::Text(size.saturating_add(2))
            }
            (b'*' | b'~' | b'>', Some(Ok(size))) => self.end(size),
            (b'%', Some(Ok(size))) => self.end(size.saturating_mul(2)),
            // The value that it is about belongs to it.
            (b'|', Some(Ok(size))) => self.end(size.saturating_mul(2).saturating_add(1)),
            _ => self.state = State::Astray,
        }
    }

    /// A value is complete but for the `parts` that follow.
    fn end(&mut self, parts: usize) {
        self.state = State::Mark;
        self.lacking = (self.lacking - 1).saturating_add(parts);
        if self.lacking == 0 {
            *self = Self::new();
        }
    }
}

impl Line {
    fn new(mark: u8) -> Self {
        Self {
            mark,
            digits: [0; MAX_DIGITS],
            length: 0,
        }
    }

    /// Whether it ends with `part`, whose only line feed, if any, is the last byte.
    fn ends(&mut self, part: &[u8]) -> bool {
        let Some((&byte, before)) = part.split_last() else {
            return false;
        };
        let last = MAX_DIGITS - 1;
        let earlier = self.length.checked_sub(1);
        let earlier = earlier.map(|at| self.digits[at.min(last)]);
        let before = before.last().copied().or(earlier);
        // Of a long line only the last byte is of interest.
        for (digit, byte) in self.digits[..last].iter_mut().skip(self.length).zip(part) {
            *digit = *byte;
        }
        self.length += part.len();
        self.digits[(self.length - 1).min(last)] = byte;
        byte == b'\n' && before == Some(b'\r')
    }

    /// The number in it, as the parser would read it.
    fn count(&self) -> Option<i64> {
        // What is longer lost its end, and is no length that a server gives.
        let (_, digits) = self.digits.split_last()?;
        let digits = digits.get(..self.length.checked_sub(2)?)?;
        std::str::from_utf8(digits).ok()?.trim().parse().ok()
    }
}

#[cfg(test)]
mod fuzz;

#[cfg(test)]
mod tests {
    use super::*;

    /// The answers that end in `bytes`, and whether one is under way after them.
    fn read(bytes: &[u8]) -> (usize, bool) {
        let (mut frames, mut ended) = (Frames::new(), 0);
        for byte in bytes {
            frames.follow(&[*byte]).expect("not too long");
            ended += usize::from(frames.length == 0);
        }
        (ended, frames.length > 0)
    }

    #[test]
    fn an_answer_ends_where_its_last_value_does() {
        for whole in [
            "+OK\r\n",
            "+\r\n",
            "+a\rb\nc\r\r\n",
            "-ERR no\r\n",
            ":1\r\n",
            "_\r\n",
            "#t\r\n",
            ",1.5\r\n",
            "(12345678901234567890123456789012345678901234567890\r\n",
            "$0\r\n\r\n",
            "$5\r\nab\r\nc\r\n",
            "$-1\r\n",
            "$ +005 \r\nabcde\r\n",
            "!3\r\nERR\r\n",
            "=7\r\ntxt:abc\r\n",
            "*0\r\n",
            "*-1\r\n",
            "*2\r\n*1\r\n:1\r\n$1\r\na\r\n",
            "%1\r\n+a\r\n*1\r\n:1\r\n",
            "%0\r\n",
            "~2\r\n:1\r\n:2\r\n",
            "|1\r\n+a\r\n:1\r\n:2\r\n",
            ">2\r\n+message\r\n+x\r\n",
            ">0\r\n",
            ">-1\r\n",
        ] {
            let bytes = whole.as_bytes();
            assert_eq!(read(bytes), (1, false), "{whole:?}");
            assert_eq!(read(&bytes[..bytes.len() - 1]), (0, true), "{whole:?}");
            assert_eq!(read(&bytes.repeat(3)), (3, false), "{whole:?}");
        }
    }

    #[test]
    fn what_is_no_answer_never_ends() {
        for garbage in [
            "HTTP/1.1 400\r\n\r\n",
            "\r\n",
            "$x\r\n",
            "$\r\n",
            "*00000000000000000000000000000\r\n",
            "%-1\r\n",
            "!-1\r\n",
            "|-1\r\n:1\r\n",
        ] {
            let more = format!("{garbage}+OK\r\n:1\r\n");
            assert_eq!(read(more.as_bytes()), (0, true), "{garbage:?}");
        }
    }

    #[test]
    fn as_many_answers_as_one_likes_are_not_too_long() {
        let mut frames = Frames::new();
        let text = format!("${}\r\n{}\r\n", LONGEST / 2, "x".repeat(LONGEST / 2));
        let many = ["*3\r\n:1\r\n:2\r\n:3\r\n", &text].concat().repeat(8);
        for chunk in [many.len(), 8192, 7] {
            for part in many.as_bytes().chunks(chunk) {
                assert_eq!(frames.follow(part), Ok(()));
            }
        }
    }

    #[test]
    fn an_answer_without_end_is_too_long() {
        let taken = |start: &str, more: &str| {
            let mut frames = Frames::new();
            let mut result = frames.follow(start.as_bytes());
            let mut taken = start.len();
            while result.is_ok() {
                result = frames.follow(more.as_bytes());
                taken += more.len();
                assert!(taken <= LONGEST + more.len(), "{start:?} {more:?}");
            }
            taken
        };
        taken("+", "x");
        taken(":", "1");
        taken("garbage", "x");
        taken("*900\r\n", "$2000\r\n");
        taken("", "*1\r\n");
        taken("", "|0\r\n");
        // It need not come for that.
        for start in [
            "$9000000000000\r\n",
            "*9000000000000\r\n",
            "%9223372036854775807\r\n",
        ] {
            assert_eq!(taken(start, ""), start.len());
        }
    }
}

//! `.env` files as python-dotenv reads them, because that is who wrote them: values without quotes
//! may hold spaces (mail providers print passwords that way) and `$` stands for itself.

/// Names and values in the order of the file. Lines that assign nothing are skipped: the file
/// belongs to other programs too.
///
/// # Errors
/// The number of the line on which a quote begins that never ends.
pub(super) fn parse(text: &str) -> Result<Vec<(String, String)>, usize> {
    let mut pairs = Vec::new();
    let mut rest = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut line = 1;
    while !rest.is_empty() {
        let end = rest.find('\n').unwrap_or(rest.len());
        let mut next = (end + 1).min(rest.len());
        if let Some((name, at)) = assignment(&rest[..end]) {
            let value = match rest[at..].chars().next() {
                Some(quote @ ('"' | '\'')) => {
                    let (value, length) = quoted(&rest[at + 1..], quote).ok_or(line)?;
                    let after = at + 1 + length;
                    next = rest[after..]
                        .find('\n')
                        .map_or(rest.len(), |end| after + end + 1);
                    value
                }
                _ => bare(&rest[at..end]).to_owned(),
            };
            pairs.push((name.to_owned(), value));
        }
        line += rest[..next].matches('\n').count();
        rest = &rest[next..];
    }
    Ok(pairs)
}

/// The name, and where the value begins.
fn assignment(line: &str) -> Option<(&str, usize)> {
    let (name, value) = line.split_once('=')?;
    let name = name.trim();
    let name = name.strip_prefix("export ").map_or(name, str::trim_start);
    if name.is_empty() || name.starts_with('#') {
        return None;
    }
    let value = value.trim_start();
    Some((name, line.len() - value.len()))
}

/// Up to a `#` behind white space.
fn bare(value: &str) -> &str {
    let comment = value
        .char_indices()
        .find(|&(at, c)| c == '#' && value[..at].ends_with(char::is_whitespace))
        .map_or(value.len(), |(at, _)| at);
    value[..comment].trim_end()
}

/// The value inside quotes, and its length in the file with the closing quote.
fn quoted(text: &str, quote: char) -> Option<(String, usize)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        if c == quote {
            return Some((value, at + 1));
        }
        if c != '\\' {
            value.push(c);
            continue;
        }
        let (_, escaped) = chars.next()?;
        match (quote, escaped) {
            (_, '\\' | '\'') | ('"', '"') => value.push(escaped),
            ('"', 'n') => value.push('\n'),
            ('"', 'r') => value.push('\r'),
            ('"', 't') => value.push('\t'),
            _ => value.extend(['\\', escaped]),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn values_are_what_python_makes_of_them() {
        let text = "\u{feff}# comment\r\n\
            PLAIN=one\n\
            export SPACES = abcd efgh ijkl  # the app password\r\n\
            DOLLAR=pa$$w0rd#1\n\
            SINGLE='it\\'s $HOME \\n' # comment\n\
            \n\
            DOUBLE=\"two\nlines \\\"quoted\\\" \\d\"\n\
            EMPTY=\n\
            nothing here\n\
            LAST=\"x\"";
        let pairs = parse(text).unwrap();
        let expected = [
            ("PLAIN", "one"),
            ("SPACES", "abcd efgh ijkl"),
            ("DOLLAR", "pa$$w0rd#1"),
            ("SINGLE", "it's $HOME \\n"),
            ("DOUBLE", "two\nlines \"quoted\" \\d"),
            ("EMPTY", ""),
            ("LAST", "x"),
        ];
        let pairs: Vec<(&str, &str)> = pairs
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        assert_eq!(pairs, expected);
    }

    #[test]
    fn an_open_quote_is_told_by_its_line() {
        assert_eq!(parse("A=1\nB=\"x\ny\"\nC='open\nD=2\n"), Err(4));
        assert_eq!(parse("A=\"ends with a backslash\\"), Err(1));
    }
}

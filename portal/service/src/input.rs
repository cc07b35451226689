//! What people enter, checked.

use crate::fault::Fault;

/// Checks a name to log in with, and gives it in lower case: one name, one spelling.
///
/// # Errors
/// [`Fault`] of the field.
pub fn login_name(field: &'static str, text: &str) -> Result<String, Fault> {
    let name = text.to_ascii_lowercase();
    let permitted = |character: char| character.is_ascii_lowercase() || character.is_ascii_digit();
    let well_formed = (1..=64).contains(&name.len())
        && name.starts_with(permitted)
        && name.chars().all(|character| permitted(character) || "._-".contains(character));
    if !well_formed {
        let detail = "a name has 1 to 64 letters (a to z), digits, dots, hyphens and underscores, and begins with a \
                      letter or digit";
        return Err(Fault::of_field(field, detail));
    }
    Ok(name)
}

/// Checks a text of one line that others are shown; the blanks around it are taken away.
///
/// # Errors
/// [`Fault`] of the field.
pub fn line(field: &'static str, text: &str, least: usize, most: usize) -> Result<String, Fault> {
    let wrong = |characters| {
        let detail = format!("{field} has {characters} characters; it must have {least} to {most}");
        Err(Fault::of_field(field, detail))
    };
    let all = text.chars().count();
    if all > most {
        return wrong(all);
    }
    let text = text.trim_matches(' ');
    let characters = text.chars().count();
    if characters < least {
        return wrong(characters);
    }
    let ends = [text.chars().next(), text.chars().next_back()].into_iter().flatten();
    let blank = ends.into_iter().find(|character| character.is_whitespace());
    if let Some(bad) = text.chars().find(|character| is_hidden(*character)).or(blank) {
        return Err(Fault::of_field(
            field,
            format!("{field} has a character that is not shown: U+{:04X}", u32::from(bad)),
        ));
    }
    Ok(text.to_owned())
}

/// Checks how many of something are listed, also those that are listed twice.
///
/// # Errors
/// [`Fault`] of the field.
pub fn at_most<T>(field: &'static str, items: &[T], most: usize) -> Result<(), Fault> {
    if items.len() <= most {
        return Ok(());
    }
    Err(Fault::of_field(field, format!("{field} lists {}; it may list {most}", items.len())))
}

/// Checks an address of mail, and gives it in lower case. Whether it exists only a mail can tell.
///
/// # Errors
/// [`Fault`] of the field.
pub fn email(field: &'static str, text: &str) -> Result<String, Fault> {
    let address = line(field, text, 3, 254)?;
    let parts: Vec<&str> = address.split('@').collect();
    let well_formed = matches!(parts[..], [local, domain]
        if (1..=64).contains(&local.chars().count()) && !domain.starts_with('.') && !domain.ends_with('.')
            && !domain.is_empty() && !domain.contains(".."))
        && !address.contains(|character: char| character.is_whitespace() || "<>(),;:\"[]\\".contains(character));
    if well_formed {
        Ok(address.to_lowercase())
    } else {
        Err(Fault::of_field(field, format!("{field} is not an address like name@example.org")))
    }
}

/// Checks a path of the portal to go on to. It begins with one slash: what a browser could take for
/// another host is refused.
///
/// # Errors
/// [`Fault`] of the field.
pub fn path(field: &'static str, text: &str) -> Result<String, Fault> {
    let rest = text.strip_prefix('/');
    let well_formed = text.len() <= 1_000
        && rest.is_some_and(|rest| !rest.starts_with('/'))
        && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\');
    if well_formed {
        Ok(text.to_owned())
    } else {
        Err(Fault::of_field(field, format!("{field} must be a path of the portal, like /transfers")))
    }
}

/// Control characters, and those that turn the direction of writing: they let one text look like
/// another.
fn is_hidden(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2060}'..='\u{2069}' | '\u{FEFF}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_one_spelling() {
        assert_eq!(login_name("name", "Ada.Lovelace").unwrap(), "ada.lovelace");
        for bad in ["", ".a", "a b", "a\0", "ä", "a/b", &"a".repeat(65), "-a"] {
            assert!(login_name("name", bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn lines_show_all_that_they_have() {
        assert_eq!(line("display_name", "  Ada Lovelace ", 1, 128).unwrap(), "Ada Lovelace");
        for bad in ["", "   ", "\ta", "a\u{A0}", "\u{3000}", "a\nb", "a\u{202E}b", "a\u{200B}", "a\u{7}"] {
            assert!(line("display_name", bad, 1, 128).is_err(), "{bad:?}");
        }
        assert!(line("display_name", &"ä".repeat(128), 1, 128).is_ok());
    }

    #[test]
    fn paths_stay_at_the_portal() {
        assert_eq!(path("next", "/device?code=A#b").unwrap(), "/device?code=A#b");
        for bad in
            ["", "x", "//evil.example", "/\\evil.example", "https://evil.example", "/\t/evil.example", "/é", "/ /x"]
        {
            assert!(path("next", bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn addresses_of_mail_have_the_shape() {
        assert_eq!(email("email", "Ada@Example.org").unwrap(), "ada@example.org");
        for bad in ["a", "a@", "@b", "a@b@c", "a b@c.org", "a@b..c", "a@.b", "<a@b.c>", "a@b.c\r\nBcc: d@e.f"] {
            assert!(email("email", bad).is_err(), "{bad:?}");
        }
    }
}

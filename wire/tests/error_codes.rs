//! The registry of error codes.

use clustor_wire::error_code::ErrorCode;

#[test]
fn numbers_ascend_stay_in_their_ranges_and_lead_back_to_their_entry() {
    let numbers: Vec<u16> = ErrorCode::ALL.iter().map(|code| code.number()).collect();
    assert!(
        numbers.is_sorted_by(|a, b| a < b),
        "not ascending: {numbers:?}"
    );
    for code in ErrorCode::ALL {
        let number = code.number();
        assert!(
            (1000..1090).contains(&number) || (2000..=2012).contains(&number),
            "{code} is outside the ranges of the registry"
        );
        assert_eq!(ErrorCode::from_number(number), Some(*code));
        assert!(code.meaning().ends_with('.') && code.meaning().len() > 10);
        assert_eq!(code.to_string(), format!("{number} {}", code.name()));
    }
    assert_eq!(ErrorCode::from_number(1000), None);
    assert_eq!(ErrorCode::from_number(1090), None);
}

#[test]
fn the_specification_lists_the_registry_word_for_word() {
    let specification = include_str!("../../docs/specification.md");
    for code in ErrorCode::ALL {
        let line = format!(
            "| {} | `{}` | {} |",
            code.number(),
            code.name(),
            code.meaning()
        );
        assert!(
            specification.contains(&line),
            "docs/specification.md lacks the line\n{line}"
        );
    }
}

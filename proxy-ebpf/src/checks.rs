//! The order of the checks, compared with the table of `weir_common::decision` by the compiler.

/// Makes checks one after the other: a part of a table, named as in there. A table's parts begin where
/// the one before ends, so that none is left out.
macro_rules! checks {
    ($table:ident[$from:tt..$to:expr]; $($check:ident $body:block)+) => {
        const _: () = assert!(weir_common::decision::is_part(
            &weir_common::decision::$table,
            $from,
            $to,
            &[$(weir_common::Check::$check),+],
        ));
        $($body)+
    };
}
pub(crate) use checks;

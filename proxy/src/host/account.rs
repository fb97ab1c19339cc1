//! The user that a command runs as: by name or number, or the one who called sudo(8).

use std::{
    ffi::{OsStr, OsString},
    io,
};

use nix::unistd::{Gid, Uid, setgid, setgroups, setuid};

use super::users::{self, User};

/// What sudo(8) says of its caller, and `MAIL`, which it sets to that of the user it changes to.
const OF_SUDO: [&str; 7] =
    ["SUDO_UID", "SUDO_GID", "SUDO_USER", "SUDO_COMMAND", "SUDO_HOME", "SUDO_TTY", "MAIL"];

/// A user with the groups that a login would give it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    uid: Uid,
    gid: Gid,
    groups: Vec<Gid>,
    /// What the user database says of it.
    entry: Option<User>,
}

/// Why it is not known which user is meant.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    /// No such user.
    #[error(
        "no user {0:?} on this machine; write a name or number, such as --user www-data or --user 33:33"
    )]
    NoUser(String),
    /// No such group.
    #[error("no group {0:?} on this machine; write a name or number, such as --user www-data:adm")]
    NoGroup(String),
    /// A number alone, of which no groups are known.
    #[error(
        "user {0} has no entry in the user database; name its group too, such as --user {0}:{0}"
    )]
    NoEntry(Uid),
    /// sudo(8) does not write that.
    #[error(
        "{name} in the environment is {value:?}, not a number as sudo sets it; unset it, or pass --user"
    )]
    Variable {
        /// The variable.
        name: &'static str,
        /// Its value.
        value: OsString,
    },
    /// The databases cannot be read.
    #[error("cannot read the user database: {0}; check getent(1), /etc/passwd and /etc/group")]
    Database(#[from] io::Error),
}

// === impl Account ===

impl Account {
    /// The user of `USER` or `USER:GROUP`, each a name or a number. Without a group it has those of
    /// a login, with one that group alone.
    ///
    /// # Errors
    /// Where there is no such user or group.
    pub fn parse(text: &str) -> Result<Self, AccountError> {
        let (name, group) = match text.split_once(':') {
            Some((name, group)) => (name, Some(group)),
            None => (text, None),
        };
        let number = name.parse().ok().map(Uid::from_raw);
        let user = users::user(name)?;
        let uid = user.as_ref().map(|user| user.uid).or(number);
        let uid = uid.ok_or_else(|| AccountError::NoUser(name.to_owned()))?;
        match (group, &user) {
            (Some(group), _) => {
                let gid = group_of(group)?;
                Ok(Self { uid, gid, groups: vec![gid], entry: user })
            }
            (None, Some(user)) => Self::of_login(uid, user.gid, Some(user.clone())),
            (None, None) => Err(AccountError::NoEntry(uid)),
        }
    }

    /// The caller of sudo(8), by the variables that it sets; `None` without them, and where root
    /// called it.
    ///
    /// # Errors
    /// Where a variable has no number.
    pub fn of_sudo(
        variable: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Option<Self>, AccountError> {
        let number = |name| {
            let read = |value: OsString| {
                let number = value.to_str().and_then(|text| text.parse::<u32>().ok());
                number.ok_or(AccountError::Variable { name, value })
            };
            variable(name).map(read).transpose()
        };
        let Some(uid) = number("SUDO_UID")?.map(Uid::from_raw).filter(|uid| !uid.is_root()) else {
            return Ok(None);
        };
        let user = users::user(&uid.to_string())?;
        let gid = match (number("SUDO_GID")?, &user) {
            (Some(gid), _) => Gid::from_raw(gid),
            (None, Some(user)) => user.gid,
            (None, None) => return Err(AccountError::NoEntry(uid)),
        };
        Self::of_login(uid, gid, user).map(Some)
    }

    fn of_login(uid: Uid, gid: Gid, user: Option<User>) -> Result<Self, AccountError> {
        let groups = match &user {
            Some(user) => users::groups(&user.name, gid)?,
            None => vec![gid],
        };
        Ok(Self { uid, gid, groups, entry: user })
    }

    /// Its number.
    #[must_use]
    pub const fn uid(&self) -> Uid {
        self.uid
    }

    /// Its group's number.
    #[must_use]
    pub const fn gid(&self) -> Gid {
        self.gid
    }

    /// Variables of a command's environment: set, or `None` for those that go.
    pub fn environment(&self) -> Vec<(&'static str, Option<&OsStr>)> {
        let entry = self.entry.as_ref();
        let name = entry.map(|it| OsStr::new(&it.name));
        let home = entry.map_or(OsStr::new("/"), |it| it.home.as_os_str());
        let mut variables: Vec<_> = OF_SUDO.map(|name| (name, None)).into();
        variables.extend([
            ("HOME", Some(home)),
            ("USER", name),
            ("LOGNAME", name),
            ("SHELL", entry.map(|it| it.shell.as_os_str())),
        ]);
        variables
    }

    /// Makes the calling process this user, for good. Needs `CAP_SETUID` and `CAP_SETGID`. Three
    /// system calls and nothing else: it may be called between fork(2) and execve(2).
    ///
    /// # Errors
    /// What the kernel says.
    pub fn assume(&self) -> nix::Result<()> {
        setgroups(&self.groups)?;
        setgid(self.gid)?;
        setuid(self.uid)
    }
}

// === helpers ===

fn group_of(text: &str) -> Result<Gid, AccountError> {
    match (users::group(text)?, text.parse()) {
        (Some(gid), _) => Ok(gid),
        (None, Ok(number)) => Ok(Gid::from_raw(number)),
        (None, Err(_)) => Err(AccountError::NoGroup(text.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_known_by_name_and_number() {
        let root = Account::parse("root").unwrap();
        assert_eq!(root, Account::parse("0").unwrap());
        assert_eq!((root.uid, root.gid), (Uid::from_raw(0), Gid::from_raw(0)));
        let other = Account::parse("root:4711").unwrap();
        assert_eq!(other.groups, [Gid::from_raw(4711)], "a group that is named is the only one");
        let stranger = Account::parse("3999999:4711").unwrap();
        assert_eq!(stranger.uid, Uid::from_raw(3_999_999));
        let set: Vec<_> =
            stranger.environment().into_iter().filter(|(_, value)| value.is_some()).collect();
        assert_eq!(set, [("HOME", Some(OsStr::new("/")))]);
        for (text, words) in [
            ("no-such-user", "no user \"no-such-user\""),
            ("", "no user \"\""),
            ("root:no-such-group", "no group \"no-such-group\""),
            ("3999999", "--user 3999999:3999999"),
        ] {
            let error = Account::parse(text).unwrap_err().to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
    }

    #[test]
    fn the_caller_of_sudo_is_who_its_variables_name() {
        let sudo = |variables: &[(&str, &str)]| {
            Account::of_sudo(|name| {
                let found = variables.iter().find(|(it, _)| *it == name);
                found.map(|(_, value)| OsString::from(value))
            })
        };
        assert_eq!(sudo(&[]).unwrap(), None);
        assert_eq!(sudo(&[("SUDO_UID", "0"), ("SUDO_GID", "0")]).unwrap(), None);
        let caller = sudo(&[("SUDO_UID", "3999999"), ("SUDO_GID", "4711")]).unwrap().unwrap();
        assert_eq!((caller.uid, caller.gid), (Uid::from_raw(3_999_999), Gid::from_raw(4711)));
        assert_eq!(caller.groups, [Gid::from_raw(4711)]);
        let error = sudo(&[("SUDO_UID", "alice")]).unwrap_err().to_string();
        assert!(error.contains("SUDO_UID") && error.contains("alice"), "{error}");
        assert!(sudo(&[("SUDO_UID", "3999999")]).is_err(), "no group is known of it");
    }
}

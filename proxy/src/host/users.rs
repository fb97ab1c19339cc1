//! The user database. getent(1) is asked, as it loads the name services that nsswitch.conf(5) names, such as
//! systemd's or a directory's: in a static program glibc cannot, and crashes where it tries. Where there is no
//! getent, the files are read: passwd(5) and group(5).

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use nix::unistd::{Gid, Uid};

/// By path: what runs here is root, and `PATH` may be its caller's.
const GETENT: [&str; 2] = ["/usr/bin/getent", "/bin/getent"];
/// Its status where a key is not in the database.
const NOT_FOUND: i32 = 2;

/// An entry of passwd(5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct User {
    pub(super) name: String,
    pub(super) uid: Uid,
    pub(super) gid: Gid,
    pub(super) home: PathBuf,
    pub(super) shell: PathBuf,
}

/// The user of a name or number.
///
/// # Errors
/// Where the database cannot be read.
pub(super) fn user(key: &str) -> io::Result<Option<User>> {
    Ok(text("passwd", key)?.lines().find_map(|line| User::parse(line).filter(|it| it.is(key))))
}

/// The group of a name or number.
///
/// # Errors
/// Where the database cannot be read.
pub(super) fn group(key: &str) -> io::Result<Option<Gid>> {
    let number = key.parse().ok();
    let of_key = |line: &str| {
        let mut fields = line.split(':');
        let (name, gid) = (fields.next()?, fields.nth(1)?.parse().ok()?);
        (name == key || number == Some(gid)).then(|| Gid::from_raw(gid))
    };
    Ok(text("group", key)?.lines().find_map(of_key))
}

/// The groups of a login: that of the user, and those that have it as a member.
///
/// # Errors
/// Where the database cannot be read.
pub(super) fn groups(user: &str, of_user: Gid) -> io::Result<Vec<Gid>> {
    let mut groups = vec![of_user];
    let others = match getent("initgroups", user)? {
        // The name, and numbers.
        Some(found) => {
            found.split_whitespace().skip(1).filter_map(|gid| gid.parse().ok()).collect()
        }
        None => members(&read("group")?, user),
    };
    groups.extend(others.into_iter().map(Gid::from_raw).filter(|gid| *gid != of_user));
    Ok(groups)
}

// === impl User ===

impl User {
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split(':');
        let (name, _password) = (fields.next()?, fields.next()?);
        let (uid, gid) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        let (_comment, home, shell) = (fields.next()?, fields.next()?, fields.next()?);
        let shell = if shell.is_empty() { "/bin/sh" } else { shell };
        Some(Self {
            name: name.to_owned(),
            uid: Uid::from_raw(uid),
            gid: Gid::from_raw(gid),
            home: home.into(),
            shell: shell.into(),
        })
    }

    fn is(&self, key: &str) -> bool {
        self.name == key || key.parse() == Ok(self.uid.as_raw())
    }
}

// === helpers ===

/// Lines of a database, with that of the key among them if there is one.
fn text(database: &str, key: &str) -> io::Result<String> {
    match getent(database, key)? {
        Some(found) => Ok(found),
        None => read(database),
    }
}

/// What getent(1) finds: nothing is an empty text. `None` where there is no getent.
fn getent(database: &str, key: &str) -> io::Result<Option<String>> {
    let Some(program) = GETENT.iter().find(|path| Path::new(path).exists()) else {
        return Ok(None);
    };
    if key.is_empty() {
        return Ok(Some(String::new()));
    }
    let mut command = Command::new(program);
    let output = command.args([database, "--", key]).stdin(Stdio::null()).output()?;
    match output.status.code() {
        Some(0 | NOT_FOUND) => Ok(Some(String::from_utf8_lossy(&output.stdout).into_owned())),
        _ => {
            let said = String::from_utf8_lossy(&output.stderr);
            let said = said.trim();
            Err(io::Error::other(format!("{program} {database} {key}: {}: {said}", output.status)))
        }
    }
}

fn read(database: &str) -> io::Result<String> {
    let path = format!("/etc/{database}");
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{path}: {error}"));
    Ok(String::from_utf8_lossy(&fs::read(&path).map_err(named)?).into_owned())
}

/// The groups of group(5) that have a user as a member.
fn members(text: &str, user: &str) -> Vec<u32> {
    let of_line = |line: &str| {
        let mut fields = line.split(':').skip(2);
        let (gid, members) = (fields.next()?.parse().ok()?, fields.next()?);
        members.split(',').any(|member| member == user).then_some(gid)
    };
    text.lines().filter_map(of_line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_read_and_a_line_that_is_none_is_not() {
        let line = "www-data:x:33:34:www-data:/var/www:/usr/sbin/nologin";
        let user = User::parse(line).unwrap();
        assert_eq!((user.uid.as_raw(), user.gid.as_raw()), (33, 34));
        assert_eq!((user.home.to_str(), user.shell.to_str()).0, Some("/var/www"));
        assert!(user.is("www-data") && user.is("33") && !user.is("34") && !user.is(""));
        assert_eq!(User::parse("a:x:1:1::/:").unwrap().shell, Path::new("/bin/sh"));
        for line in ["", "+", "a:x:one:1::/:/bin/sh", "a:x:1:1"] {
            assert_eq!(User::parse(line), None, "{line:?}");
        }
    }

    #[test]
    fn members_have_the_groups_that_name_them() {
        let text = "root:x:0:\nadm:x:4:daemon,me\nme:x:1000:\nsudo:x:27:me\nbad:x:y:me\nshort:x\n";
        assert_eq!(members(text, "me"), [4, 27]);
        assert_eq!(members(text, "m"), [0; 0]);
    }

    #[test]
    fn the_database_and_the_files_agree_on_those_that_each_machine_has() {
        let root = user("root").unwrap().unwrap();
        assert_eq!(user("0").unwrap().unwrap(), root);
        let in_file = read("passwd")
            .unwrap()
            .lines()
            .find_map(|line| User::parse(line).filter(|it| it.is("root")));
        assert_eq!(in_file, Some(root));
        assert_eq!(group("root").unwrap(), Some(Gid::from_raw(0)));
        assert_eq!(group("0").unwrap(), Some(Gid::from_raw(0)));
        assert_eq!((user("no-such-user").unwrap(), group("no-such-group").unwrap()), (None, None));
        assert_eq!((user("").unwrap(), group("--help").unwrap()), (None, None));
        assert_eq!(groups("root", Gid::from_raw(0)).unwrap()[0], Gid::from_raw(0));
    }
}

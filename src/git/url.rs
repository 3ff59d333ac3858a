//! Addresses of repositories: which are allowed, and which mean the same repository.

use std::fmt;
use std::hash::{Hash, Hasher};

use super::Error;

/// A repository's address, checked and normalised. Two spellings of one repository are equal and
/// share a pool: `.git` at the end, the case of the host, default ports, and the two ways to write
/// an ssh address make no difference. Never contains a password.
#[derive(Clone, Debug)]
pub struct RepoUrl {
    /// What git is given: as it was written, since some servers insist on `.git`.
    address: String,
    /// What is compared and hashed.
    normal: String,
    host: String,
}

const ALLOWED: &str = "use https://, http://, ssh://, user@host:path, or the absolute path of a \
                       local repository";

impl RepoUrl {
    /// Checks and normalises an address. [`Error::Invalid`] says what is wrong with it, without
    /// repeating it: it may contain a secret.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let text = text.trim();
        if text.is_empty() || text.starts_with('-') || text.contains(char::is_control) {
            return invalid(&format!(
                "is empty, starts with `-` or has control characters; {ALLOWED}"
            ));
        }
        if let Some((scheme, rest)) = text.split_once("://") {
            return match scheme.to_ascii_lowercase().as_str() {
                scheme @ ("https" | "http") => web(scheme, rest),
                "ssh" => ssh(text, rest),
                "file" if rest.starts_with('/') => local(rest),
                "file" => invalid("has a host in a file:// URL; write file:///path"),
                other if other.chars().all(|c| c.is_ascii_alphanumeric() || c == '+') => {
                    invalid(&format!("has the scheme `{other}`, which is not allowed; {ALLOWED}"))
                }
                _ => invalid(&format!("has a scheme that is not allowed; {ALLOWED}")),
            };
        }
        if text.starts_with('/') {
            return local(text);
        }
        match text.split_once(':') {
            Some((_, path)) if path.starts_with(':') => {
                invalid(&format!("names a remote helper (`…::`), which is not allowed; {ALLOWED}"))
            }
            Some((host, path)) if !host.contains('/') => scp(text, host, path),
            _ => invalid(&format!("is a relative path; {ALLOWED}")),
        }
    }

    /// Name of the repository's lock and pool directory: a hash of the normalised address, 40
    /// hexadecimal digits.
    #[must_use]
    pub fn key(&self) -> String {
        git2::Oid::hash_object(git2::ObjectType::Blob, self.normal.as_bytes())
            .expect("hashing a few bytes in memory cannot fail")
            .to_string()
    }

    /// The host as a message names it.
    pub(super) fn host(&self) -> &str {
        &self.host
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }
}

impl PartialEq for RepoUrl {
    fn eq(&self, other: &Self) -> bool {
        self.normal == other.normal
    }
}

impl Eq for RepoUrl {}

impl Hash for RepoUrl {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.normal.hash(state);
    }
}

impl fmt::Display for RepoUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.address)
    }
}

fn invalid<T>(problem: &str) -> Result<T, Error> {
    Err(Error::Invalid(format!("the repository address {problem}")))
}

/// `http(s)://host[:port]/path`
fn web(scheme: &str, rest: &str) -> Result<RepoUrl, Error> {
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    if authority.contains('@') {
        return invalid(
            "has a user name or password in it; leave it out, and give the worker's user a git \
             credential helper for that host",
        );
    }
    if path.contains(['?', '#']) {
        return invalid("has a query or fragment; only scheme, host and path are allowed");
    }
    let default_port = if scheme == "https" { "443" } else { "80" };
    let (host, port) = host_and_port(authority, default_port)?;
    let path = repository_path(path)?;
    Ok(RepoUrl {
        address: format!("{scheme}://{rest}"),
        normal: format!("{scheme}://{host}{port}/{path}"),
        host,
    })
}

/// `ssh://[user@]host[:port]/path`
fn ssh(text: &str, rest: &str) -> Result<RepoUrl, Error> {
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (user, authority) = user_and_host(authority)?;
    let (host, port) = host_and_port(authority, "22")?;
    let path = repository_path(path)?;
    let normal = format!("ssh://{user}{host}{port}/{path}");
    Ok(RepoUrl { address: text.to_owned(), normal, host })
}

/// `[user@]host:path`. The path is relative to the user's home, unless the user is a forge's `git`,
/// who has none.
fn scp(text: &str, authority: &str, path: &str) -> Result<RepoUrl, Error> {
    // `user:password@host/…` without a scheme would be read as host `user`; say what is wrong.
    let is_password = path.split('/').next().is_some_and(|first| first.contains('@'));
    if is_password && !authority.contains('@') {
        return invalid("seems to have a password in it; leave it out, and use an ssh key");
    }
    let (user, authority) = user_and_host(authority)?;
    let (host, _) = host_and_port(authority, "22")?;
    let home = if user == "git@" || path.starts_with('/') { "" } else { "~/" };
    let path = repository_path(path)?;
    let normal = format!("ssh://{user}{host}/{home}{path}");
    Ok(RepoUrl { address: text.to_owned(), normal, host })
}

/// An absolute path. `.git` at its end is part of the name: both may exist.
fn local(path: &str) -> Result<RepoUrl, Error> {
    let parts: Vec<_> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    if parts.is_empty() || parts.contains(&"..") {
        return invalid("is the root directory or has `..` in it; write the path out");
    }
    let path = format!("/{}", parts.join("/"));
    Ok(RepoUrl { address: path.clone(), normal: path, host: "this host".into() })
}

/// Splits `user@` (kept with the `@`) from the host.
fn user_and_host(authority: &str) -> Result<(&str, &str), Error> {
    let Some(at) = authority.rfind('@') else { return Ok(("", authority)) };
    let (user, host) = authority.split_at(at + 1);
    if user.contains(':') {
        return invalid("has a password in it; leave it out, and use an ssh key");
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '+');
    if !user[..at].chars().all(allowed) || user.starts_with(['-', '@']) {
        return invalid("has a user name that is not plain letters, digits, `.`, `_`, `+` or `-`");
    }
    Ok((user, host))
}

/// Lower-case host, and `:port` unless it is the default one.
fn host_and_port(authority: &str, default_port: &str) -> Result<(String, String), Error> {
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port),
        _ => (authority, default_port),
    };
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let is_name =
        host.starts_with(|c: char| c.is_ascii_alphanumeric()) && host.chars().all(allowed);
    let is_address = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).is_some_and(|h| {
        !h.is_empty() && h.chars().all(|c| c.is_ascii_hexdigit() || c == ':' || c == '.')
    });
    if !is_name && !is_address {
        return invalid(&format!("has no usable host name; {ALLOWED}"));
    }
    let port = match port {
        "" => String::new(),
        port if port == default_port => String::new(),
        port if port.parse::<u16>().is_ok() => format!(":{port}"),
        _ => return invalid("has a port that is not a number from 0 to 65535"),
    };
    Ok((host.to_ascii_lowercase(), port))
}

/// The path without empty parts and without `.git`.
fn repository_path(path: &str) -> Result<String, Error> {
    let parts: Vec<_> = path.split('/').filter(|part| !part.is_empty()).collect();
    // Git would resolve them, and fetch another repository than the one that rules were asked about.
    let is_step = |part: &&str| matches!(&*part.to_lowercase().replace("%2e", "."), "." | "..");
    if parts.iter().any(is_step) {
        return invalid("has `.` or `..` as a part of its path; write the path out");
    }
    let path = parts.join("/");
    let path = path.strip_suffix(".git").unwrap_or(&path).trim_end_matches('/');
    if path.is_empty() {
        return invalid("names a host but no repository on it");
    }
    Ok(path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normal(text: &str) -> String {
        RepoUrl::parse(text).unwrap().normal
    }

    #[test]
    fn spellings_of_one_repository_are_equal() {
        for (spellings, expected) in [
            (
                &[
                    "https://github.com/a/B",
                    "https://GitHub.com/a/B.git",
                    "HTTPS://github.com:443/a//B.git/",
                    "  https://github.com/a/B/\n",
                ][..],
                "https://github.com/a/B",
            ),
            (
                &[
                    "git@github.com:a/b.git",
                    "git@GITHUB.com:/a/b",
                    "ssh://git@github.com/a/b",
                    "ssh://git@github.com:22/a/b.git",
                ],
                "ssh://git@github.com/a/b",
            ),
            (&["http://host:80/x", "http://host/x.git"], "http://host/x"),
            (&["ssh://host:2222/x.git"], "ssh://host:2222/x"),
            (&["me@host:x"], "ssh://me@host/~/x"),
            (&["me@host:/x", "ssh://me@host/x"], "ssh://me@host/x"),
            (&["/srv/x.git", "file:///srv/x.git/", "/srv//./x.git"], "/srv/x.git"),
            (&["ssh://[::1]:22/x", "ssh://[::1]/x"], "ssh://[::1]/x"),
        ] {
            let keys: Vec<_> =
                spellings.iter().map(|text| RepoUrl::parse(text).unwrap().key()).collect();
            for (text, key) in spellings.iter().zip(&keys) {
                assert_eq!(normal(text), expected, "{text}");
                assert_eq!(key, &keys[0], "{text}");
            }
        }
        let (left, right) = ("https://host/a", "https://host/A");
        assert_ne!(RepoUrl::parse(left).unwrap(), RepoUrl::parse(right).unwrap());
    }

    #[test]
    fn what_is_not_allowed_says_why_and_repeats_nothing() {
        for (text, words) in [
            ("", "empty"),
            ("--upload-pack=s3cret", "starts with `-`"),
            ("https://me:s3cret@host/x", "password"),
            ("https://s3cret@host/x", "user name or password"),
            ("ssh://me:s3cret@host/x", "password"),
            ("me:s3cret@host/x", "password"),
            ("https://host/x?token=s3cret", "query"),
            ("git://host/s3cret", "`git`"),
            ("ext::sh -c s3cret", "remote helper"),
            ("s3cret/x", "relative path"),
            ("./s3cret:x", "relative path"),
            ("https://host/", "no repository"),
            ("https:///s3cret", "host"),
            ("ssh://-oProxyCommand=s3cret/x", "host"),
            ("-oProxyCommand=s3cret:x", "starts with `-`"),
            ("https://host:s3cret/x", "port"),
            ("/srv/../s3cret", "`..`"),
            ("https://host/a/../s3cret/x", "`..`"),
            ("https://host/a/%2E%2e/s3cret", "`..`"),
            ("git@host:a/../s3cret", "`..`"),
            ("file://s3cret/x", "file:///path"),
            ("https://host/s3cret\n[core]", "control"),
        ] {
            let error = RepoUrl::parse(text).unwrap_err();
            assert!(matches!(error, Error::Invalid(_)), "{text}");
            assert!(error.to_string().contains(words), "{text}: {error}");
            assert!(!error.to_string().contains("s3cret"), "{text}: {error}");
        }
    }
}

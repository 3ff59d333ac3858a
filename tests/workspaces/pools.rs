//! Fetching into pools: what a reference may be, and servers that do not help.

use std::fs;
use std::io::{Read, Write};
use std::time::{Duration, Instant};

use sortie::git::{Error, Git, RepoUrl};

use crate::world::{World, git, invalid};
use crate::{LONG, NOW};

#[tokio::test]
async fn the_first_clone_and_what_a_reference_may_be() {
    let world = World::new().await;
    assert_eq!(world.git.find(&world.url, None, LONG).await.unwrap(), None);

    git(&world.path("author"), &["tag", "-a", "v1", "-m", "release"]);
    git(&world.path("author"), &["push", "--quiet", "origin", "v1"]);
    let first = git(&world.path("author"), &["rev-parse", "HEAD"]);
    let second = world.push_upstream("feature/x", "second");
    world.git.fetch(&world.url, 1).await.unwrap();
    world.assert_pool_is_whole();

    for (reference, expected) in [
        (None, &first),
        (Some("main"), &first),
        (Some("refs/heads/main"), &first),
        (Some("v1"), &first),
        (Some("feature/x"), &second),
        (Some(second.as_str()), &second),
        (Some(&second[..10]), &second),
    ] {
        let found = world.git.find(&world.url, reference, LONG).await.unwrap();
        assert_eq!(found.as_ref(), Some(expected), "{reference:?}");
    }
    // Too old for names, never too old for a whole id.
    tokio::time::sleep(Duration::from_millis(2)).await;
    assert_eq!(world.git.find(&world.url, Some("main"), NOW).await.unwrap(), None);
    assert_eq!(world.git.find(&world.url, Some(&first), NOW).await.unwrap(), Some(first.clone()));

    let message = invalid(world.git.resolve(&world.url, Some("featur/x")).await);
    assert!(message.contains("`featur/x`") && message.contains("nearest: feature/x"), "{message}");
    for odd in ["main~1", "@{u}", "..", "-x", "HEAD^{tree}"] {
        assert!(world.git.resolve(&world.url, Some(odd)).await.is_err(), "{odd}");
    }

    let checkout = world.checkout("job", &second).await;
    assert_eq!(checkout.base, second);
    assert_eq!(git(&checkout.path, &["rev-parse", "HEAD"]), second);
    assert_eq!(git(&checkout.path, &["symbolic-ref", "HEAD"]), "refs/heads/sortie/job");
    assert_eq!(git(&checkout.path, &["status", "--porcelain"]), "");
    assert_eq!(git(&checkout.path, &["rev-parse", "origin/main"]), first);
    assert_eq!(
        git(&checkout.path, &["remote", "get-url", "origin"]),
        world.upstream().to_str().unwrap()
    );
    git(&checkout.path, &["fetch", "--quiet"]);
}

#[tokio::test]
async fn repositories_that_cannot_be_had() {
    let world = World::new().await;
    let gone = RepoUrl::parse(world.path("gone").to_str().unwrap()).unwrap();
    assert!(invalid(world.git.fetch(&gone, 1).await).contains("no such repository"));

    git(world.dir.path(), &["init", "--quiet", "--bare", "empty.git"]);
    let empty = RepoUrl::parse(world.path("empty.git").to_str().unwrap()).unwrap();
    world.git.fetch(&empty, 1).await.unwrap();
    assert!(invalid(world.git.resolve(&empty, None).await).contains("first commit"));
    assert!(invalid(world.git.resolve(&empty, Some("main")).await).contains("none at all"));

    // A host that does not answer is nobody's fault but ours.
    let unreachable = RepoUrl::parse("http://127.0.0.1:1/x.git").unwrap();
    let error = world.git.fetch(&unreachable, 1).await.unwrap_err();
    assert!(matches!(error, Error::Failed(_)), "{error}");
}

/// A server on loopback that answers every request with `answer`, or never answers. Answers a
/// repository on it.
fn server(answer: Option<&'static str>) -> RepoUrl {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let mut silent = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            match answer {
                None => silent.push(stream),
                Some(answer) => {
                    let _request = stream.read(&mut [0; 4096]).unwrap();
                    let end = "Content-Length: 0\r\nConnection: close\r\n\r\n";
                    write!(stream, "HTTP/1.1 {answer}\r\n{end}").unwrap();
                }
            }
        }
    });
    RepoUrl::parse(&format!("http://127.0.0.1:{port}/x.git")).unwrap()
}

#[tokio::test]
async fn servers_that_refuse_or_know_nothing_or_never_answer() {
    let world = World::new().await;
    let refuses = server(Some("401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"x\""));
    let message = invalid(world.git.fetch(&refuses, 1).await);
    assert!(message.contains("127.0.0.1 refused access"), "{message}");
    assert!(message.contains("credential helper"), "{message}");
    let ignorant = server(Some("404 Not Found"));
    let message = invalid(world.git.fetch(&ignorant, 1).await);
    assert!(message.contains("no such repository"), "{message}");
    let failing = server(Some("502 Bad Gateway"));
    let error = world.git.fetch(&failing, 1).await.unwrap_err();
    assert!(matches!(&error, Error::Failed(message) if message.contains("502")), "{error}");

    let silent = server(None);
    let hasty = Git::open(&world.path("pools"), Duration::from_millis(500)).await.unwrap();
    let error = hasty.fetch(&silent, 1).await.unwrap_err();
    assert!(matches!(&error, Error::Failed(message) if message.contains("more than")), "{error}");
    // And a call that is dropped takes its processes with it, too.
    let dropped = tokio::time::timeout(Duration::from_millis(200), world.git.fetch(&silent, 2));
    dropped.await.unwrap_err();
    let deadline = Instant::now() + Duration::from_secs(10);
    while !processes_about(&silent.to_string()).is_empty() {
        assert!(Instant::now() < deadline, "{:?}", processes_about(&silent.to_string()));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Command lines of running processes that contain `text`.
fn processes_about(text: &str) -> Vec<String> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries
        .filter_map(|entry| fs::read(entry.path().join("cmdline")).ok())
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .filter(|line| line.contains(text))
        .collect()
}

//! A redis-server of the benchmark's own.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use redis::aio::MultiplexedConnection;

use super::samples;
use crate::store::redis::{Role, Settings, connect};
use crate::store::{Store, Terms};

/// The server, its socket, and a plain connection for PING and INFO. Ends when dropped.
pub struct Server {
    child: Child,
    directory: std::path::PathBuf,
    plain: MultiplexedConnection,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("pid", &self.child.id()).finish_non_exhaustive()
    }
}

impl Server {
    pub async fn start() -> Result<Self> {
        let directory = std::env::temp_dir().join(format!("sortie-bench-{}", std::process::id()));
        std::fs::create_dir_all(&directory)?;
        let socket = directory.join("redis.sock");
        let child = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--appendonly", "yes", "--appendfsync", "everysec"])
            .args(["--loglevel", "warning", "--unixsocket"])
            .arg(&socket)
            .arg("--dir")
            .arg(&directory)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .context(
                "cannot start redis-server; install it (Debian: apt-get install redis-server)",
            )?;
        let client = redis::Client::open(format!("unix://{}", socket.display()))?;
        // Emptying the server takes longer than the client's default patience.
        let patient = redis::AsyncConnectionConfig::new().set_response_timeout(None);
        let deadline = Instant::now() + Duration::from_secs(10);
        let plain = loop {
            match client.get_multiplexed_async_connection_with_config(&patient).await {
                Ok(connection) => break connection,
                Err(error) if Instant::now() > deadline => {
                    return Err(error).context("the private redis-server does not answer");
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        };
        Ok(Self { child, directory, plain })
    }

    pub fn url(&self) -> String {
        format!("unix://{}", self.directory.join("redis.sock").display())
    }

    pub fn directory(&self) -> &std::path::Path {
        &self.directory
    }

    pub async fn store(&self, queue: &str, role: Role) -> Result<Arc<dyn Store>> {
        let settings = Settings {
            url: self.url(),
            queue: queue.to_owned(),
            terms: Terms::default(),
            allow_eviction: false,
        };
        Ok(connect(settings, role).await?)
    }

    /// Median round trip of a PING.
    pub async fn ping(&self) -> Result<Duration> {
        let mut connection = self.plain.clone();
        let mut taken = samples(1000, async |_| {
            let () = redis::cmd("PING").query_async(&mut connection).await?;
            Ok(())
        })
        .await?;
        taken.sort_unstable();
        Ok(taken[taken.len() / 2])
    }

    /// One number of `INFO`.
    pub async fn info(&self, name: &str) -> Result<f64> {
        let text: String =
            redis::cmd("INFO").arg("all").query_async(&mut self.plain.clone()).await?;
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        match value.and_then(|value| value.trim().parse().ok()) {
            Some(number) => Ok(number),
            None => bail!("INFO has no number {name:?}"),
        }
    }

    /// Commands that a waiting worker may send, as counted by the server; those inside scripts and our
    /// own are of other kinds.
    pub async fn client_commands(&self) -> Result<f64> {
        let text: String =
            redis::cmd("INFO").arg("commandstats").query_async(&mut self.plain.clone()).await?;
        let count = |command: &str| -> f64 {
            text.lines()
                .find_map(|line| {
                    line.strip_prefix(&format!("cmdstat_{command}:calls="))?
                        .split(',')
                        .next()?
                        .parse()
                        .ok()
                })
                .unwrap_or_default()
        };
        Ok(["evalsha", "blmove", "blpop", "xread"].iter().map(|command| count(command)).sum())
    }

    pub async fn version(&self) -> Result<String> {
        let text: String =
            redis::cmd("INFO").arg("server").query_async(&mut self.plain.clone()).await?;
        Ok(text
            .lines()
            .find_map(|line| line.strip_prefix("redis_version:"))
            .unwrap_or("unknown")
            .trim()
            .to_owned())
    }

    /// CPU seconds that the server has used.
    pub async fn cpu_seconds(&self) -> Result<f64> {
        Ok(self.info("used_cpu_user").await? + self.info("used_cpu_sys").await?)
    }

    pub async fn flush(&self) -> Result<()> {
        Ok(redis::cmd("FLUSHALL").query_async(&mut self.plain.clone()).await?)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself; there is nobody left to tell.
        drop(self.child.kill());
        drop(self.child.wait());
        drop(std::fs::remove_dir_all(&self.directory));
    }
}

//! `windlass dlq`: messages that failed too often.

use serde_json::Value;

use super::Output;
use super::client::Client;
use super::subcommands::DlqCommand;

/// `windlass dlq …`.
///
/// # Errors
/// When there is none with this id, the server refuses or the output is closed.
pub async fn run(client: &Client, command: &DlqCommand, out: &mut Output<'_>) -> anyhow::Result<()> {
    match *command {
        DlqCommand::List => list(client, out).await,
        DlqCommand::Show { id } => show(client, id, out).await,
        DlqCommand::Redrive { id } => {
            let answer: Value = client.post(&format!("/operations/dead-letters/{id}/redrive"), &()).await?;
            out.put(&answer, |to| writeln!(to, "Message {id} is in its queue again"))
        }
        DlqCommand::Purge { id: Some(id) } => {
            let answer: Value = client.delete(&format!("/operations/dead-letters/{id}")).await?;
            out.put(&answer, |to| writeln!(to, "Message {id} is deleted"))
        }
        DlqCommand::Purge { id: None } => {
            let answer: Value = client.delete("/operations/dead-letters").await?;
            out.put(&answer, |to| match answer["purged"].as_u64().unwrap_or_default() {
                0 => writeln!(to, "No dead letters."),
                1 => writeln!(to, "1 message is deleted"),
                more => writeln!(to, "{more} messages are deleted"),
            })
        }
    }
}

async fn list(client: &Client, out: &mut Output<'_>) -> anyhow::Result<()> {
    let answer: Value = client.get("/operations/dead-letters").await?;
    out.put(&answer, |to| {
        let letters = answer["deadLetters"].as_array();
        if letters.is_none_or(Vec::is_empty) {
            writeln!(to, "No dead letters.")?;
        }
        for letter in letters.into_iter().flatten() {
            writeln!(
                to,
                "{} {} after {} deliveries: {}",
                letter["id"],
                letter["queue"].as_str().unwrap_or_default(),
                letter["deliveries"],
                letter["error"].as_str().unwrap_or_default()
            )?;
            writeln!(to, "  {}", letter["body"].as_str().unwrap_or_default())?;
        }
        Ok(())
    })
}

async fn show(client: &Client, id: i64, out: &mut Output<'_>) -> anyhow::Result<()> {
    let letter: Value = client.get(&format!("/operations/dead-letters/{id}")).await?;
    out.put(&letter, |to| {
        let text = |name: &str| letter[name].as_str().unwrap_or("-");
        writeln!(to, "message   {}", letter["id"])?;
        writeln!(to, "queue     {}", text("queue"))?;
        writeln!(to, "reason    {} after {} deliveries", text("reason"), letter["deliveries"])?;
        writeln!(to, "error     {}", text("error"))?;
        writeln!(to, "first     {}", text("firstAt"))?;
        writeln!(to, "given up  {}", text("lastAt"))?;
        writeln!(to, "body      {}", text("body"))?;
        writeln!(to, "Next:  windlass dlq redrive {id}  or  windlass dlq purge {id}")
    })
}

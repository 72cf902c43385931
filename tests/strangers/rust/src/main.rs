//! The part of run.py that the AWS SDK for Rust has.

use std::collections::HashMap;
use std::io::{stdin, BufRead};

use aws_config::{BehaviorVersion, Region};
use aws_sdk_marketplacemetering::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_marketplacemetering::primitives::DateTime;
use aws_sdk_marketplacemetering::types::{Tag, UsageAllocation, UsageRecord};
use aws_sdk_marketplacemetering::{meta, Client, Error};
use serde_json::{json, Map, Value};

/// Why a call is not made, or was not answered.
enum Problem {
    /// The SDK cannot say it.
    Cannot(String),
    /// The SDK or the service refuses it.
    Refused(Value),
}

type Said<T> = Result<T, Problem>;

/// The members of a structure, each taken once; what is left is unknown to the SDK.
struct Members(Map<String, Value>);

impl Members {
    fn of(value: &Value) -> Self {
        Members(value.as_object().cloned().unwrap_or_default())
    }

    fn text(&mut self, name: &str) -> Option<String> {
        self.0.remove(name).map(|value| value.as_str().unwrap_or_default().to_owned())
    }

    fn number(&mut self, name: &str) -> Said<Option<i32>> {
        match self.0.remove(name) {
            None => Ok(None),
            Some(value) => match value.as_i64().map(i32::try_from) {
                Some(Ok(number)) => Ok(Some(number)),
                _ => Err(refused_here("not an i32")),
            },
        }
    }

    fn time(&mut self, name: &str) -> Option<DateTime> {
        self.0.remove(name).and_then(|value| value.as_f64()).map(DateTime::from_secs_f64)
    }

    fn flag(&mut self, name: &str) -> Option<bool> {
        self.0.remove(name).and_then(|value| value.as_bool())
    }

    fn list<T>(&mut self, name: &str, read: fn(Members) -> Said<T>) -> Said<Option<Vec<T>>> {
        match self.0.remove(name) {
            Some(Value::Array(parts)) => parts.iter().map(|part| read(Members::of(part))).collect::<Said<_>>().map(Some),
            _ => Ok(None),
        }
    }

    fn end(self) -> Said<()> {
        match self.0.is_empty() {
            true => Ok(()),
            false => Err(Problem::Cannot("a member that this SDK does not know".to_owned())),
        }
    }
}

fn refused_here(why: &str) -> Problem {
    Problem::Refused(json!({ "code": why }))
}

fn tag(mut given: Members) -> Said<Tag> {
    let built = Tag::builder().set_key(given.text("Key")).set_value(given.text("Value")).build();
    given.end()?;
    built.map_err(|error| refused_here(&error.to_string()))
}

fn allocation(mut given: Members) -> Said<UsageAllocation> {
    let building = UsageAllocation::builder()
        .set_allocated_usage_quantity(given.number("AllocatedUsageQuantity")?)
        .set_tags(given.list("Tags", tag)?);
    given.end()?;
    building.build().map_err(|error| refused_here(&error.to_string()))
}

fn record(mut given: Members) -> Said<UsageRecord> {
    let building = UsageRecord::builder()
        .set_timestamp(given.time("Timestamp"))
        .set_customer_identifier(given.text("CustomerIdentifier"))
        .set_customer_aws_account_id(given.text("CustomerAWSAccountId"))
        .set_license_arn(given.text("LicenseArn"))
        .set_dimension(given.text("Dimension"))
        .set_quantity(given.number("Quantity")?)
        .set_usage_allocations(given.list("UsageAllocations", allocation)?);
    given.end()?;
    building.build().map_err(|error| refused_here(&error.to_string()))
}

fn written(one: &UsageRecord) -> Value {
    json!({
        "Timestamp": one.timestamp().secs(),
        "CustomerIdentifier": one.customer_identifier(),
        "CustomerAWSAccountId": one.customer_aws_account_id(),
        "LicenseArn": one.license_arn(),
        "Dimension": one.dimension(),
        "Quantity": one.quantity(),
    })
}

/// What an error is to the SDK: its code, its status, and whether it is a class of its own.
fn refusal<E>(error: SdkError<E>) -> Problem
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    Error: From<SdkError<E>>,
{
    let status = error.raw_response().map(|response| response.status().as_u16());
    let code = error.code().map(str::to_owned);
    let debug = format!("{error:?}").chars().take(200).collect::<String>();
    #[allow(deprecated)]
    let modelled = !matches!(Error::from(error), Error::Unhandled(_));
    Problem::Refused(json!({ "status": status, "code": code.unwrap_or(debug), "modelled": modelled }))
}

async fn batch_meter_usage(client: &Client, mut given: Members) -> Said<Value> {
    let call = client
        .batch_meter_usage()
        .set_product_code(given.text("ProductCode"))
        .set_usage_records(given.list("UsageRecords", record)?);
    given.end()?;
    let reply = call.send().await.map_err(refusal)?;
    let results: Vec<Value> = reply
        .results()
        .iter()
        .map(|one| {
            json!({
                "UsageRecord": one.usage_record().map(written),
                "MeteringRecordId": one.metering_record_id(),
                "Status": one.status().map(|status| status.as_str()),
            })
        })
        .collect();
    let left: Vec<Value> = reply.unprocessed_records().iter().map(written).collect();
    Ok(json!({ "Results": results, "UnprocessedRecords": left }))
}

async fn meter_usage(client: &Client, mut given: Members) -> Said<Value> {
    let call = client
        .meter_usage()
        .set_product_code(given.text("ProductCode"))
        .set_timestamp(given.time("Timestamp"))
        .set_usage_dimension(given.text("UsageDimension"))
        .set_usage_quantity(given.number("UsageQuantity")?)
        .set_dry_run(given.flag("DryRun"))
        .set_usage_allocations(given.list("UsageAllocations", allocation)?)
        .set_client_token(given.text("ClientToken"));
    given.end()?;
    let reply = call.send().await.map_err(refusal)?;
    Ok(json!({ "MeteringRecordId": reply.metering_record_id() }))
}

async fn register_usage(client: &Client, mut given: Members) -> Said<Value> {
    let call = client
        .register_usage()
        .set_product_code(given.text("ProductCode"))
        .set_public_key_version(given.number("PublicKeyVersion")?)
        .set_nonce(given.text("Nonce"));
    given.end()?;
    let reply = call.send().await.map_err(refusal)?;
    Ok(json!({
        "Signature": reply.signature(),
        "PublicKeyRotationTimestamp": reply.public_key_rotation_timestamp().map(|time| time.secs()),
    }))
}

async fn resolve_customer(client: &Client, mut given: Members) -> Said<Value> {
    let call = client.resolve_customer().set_registration_token(given.text("RegistrationToken"));
    given.end()?;
    let reply = call.send().await.map_err(refusal)?;
    Ok(json!({
        "CustomerIdentifier": reply.customer_identifier(),
        "ProductCode": reply.product_code(),
        "CustomerAWSAccountId": reply.customer_aws_account_id(),
        "LicenseArn": reply.license_arn(),
        "Metadata": { "AgreementId": reply.metadata().and_then(|one| one.agreement_id()) },
    }))
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    println!("{}", json!({ "version": format!("Rust {}", meta::PKG_VERSION) }));
    let mut clients: HashMap<String, Client> = HashMap::new();
    for line in stdin().lock().lines() {
        let call: Value = serde_json::from_str(&line.expect("a line")).expect("JSON");
        let region = call["region"].as_str().expect("a region").to_owned();
        if !clients.contains_key(&region) {
            let name = Region::new(region.clone());
            let config = aws_config::defaults(BehaviorVersion::latest()).region(name).load().await;
            clients.insert(region.clone(), Client::new(&config));
        }
        let (client, given) = (&clients[&region], Members::of(&call["request"]));
        let reply = match call["operation"].as_str() {
            Some("BatchMeterUsage") => batch_meter_usage(client, given).await,
            Some("MeterUsage") => meter_usage(client, given).await,
            Some("RegisterUsage") => register_usage(client, given).await,
            _ => resolve_customer(client, given).await,
        };
        println!("{}", match reply {
            Ok(reply) => json!({ "reply": reply, "status": 200 }),
            Err(Problem::Cannot(why)) => json!({ "cannot": why }),
            Err(Problem::Refused(why)) => why,
        });
    }
}

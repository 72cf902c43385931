import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.time.Instant;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import software.amazon.awssdk.core.SdkField;
import software.amazon.awssdk.core.SdkPojo;
import software.amazon.awssdk.core.exception.SdkClientException;
import software.amazon.awssdk.core.protocol.MarshallingType;
import software.amazon.awssdk.core.traits.ListTrait;
import software.amazon.awssdk.core.util.VersionInfo;
import software.amazon.awssdk.protocols.jsoncore.JsonNode;
import software.amazon.awssdk.protocols.jsoncore.JsonNodeParser;
import software.amazon.awssdk.regions.Region;
import software.amazon.awssdk.services.marketplacemetering.MarketplaceMeteringClient;
import software.amazon.awssdk.services.marketplacemetering.model.BatchMeterUsageRequest;
import software.amazon.awssdk.services.marketplacemetering.model.MarketplaceMeteringException;
import software.amazon.awssdk.services.marketplacemetering.model.MarketplaceMeteringResponse;
import software.amazon.awssdk.services.marketplacemetering.model.MeterUsageRequest;
import software.amazon.awssdk.services.marketplacemetering.model.RegisterUsageRequest;
import software.amazon.awssdk.services.marketplacemetering.model.ResolveCustomerRequest;
import software.amazon.awssdk.utils.builder.Buildable;

/** The part of run.py that the AWS SDK for Java 2 has. */
public final class Stranger {
    private static final Map<String, MarketplaceMeteringClient> CLIENTS = new HashMap<>();

    private static final class Unknown extends RuntimeException {
    }

    public static void main(String[] arguments) throws Exception {
        say(Map.of("version", "Java v2 " + VersionInfo.SDK_VERSION));
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in));
        JsonNodeParser parser = JsonNode.parser();
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {
            Map<String, JsonNode> call = parser.parse(line).asObject();
            say(answer(call.get("operation").asString(), call.get("request"), call.get("region").asString()));
        }
    }

    private static Map<String, Object> answer(String operation, JsonNode request, String region) {
        Map<String, Object> said = new LinkedHashMap<>();
        try {
            MarketplaceMeteringResponse reply = send(operation, request, region);
            said.put("status", reply.sdkHttpResponse().statusCode());
            said.put("reply", written(reply));
        } catch (Unknown unknown) {
            said.put("cannot", "a member that this SDK does not know");
        } catch (MarketplaceMeteringException error) {
            said.put("status", error.statusCode());
            said.put("code", error.awsErrorDetails().errorCode());
            said.put("modelled", error.getClass() != MarketplaceMeteringException.class);
        } catch (SdkClientException error) {
            said.put("code", error.getMessage());
        }
        return said;
    }

    private static MarketplaceMeteringResponse send(String operation, JsonNode request, String region) {
        MarketplaceMeteringClient client = CLIENTS.computeIfAbsent(
            region, name -> MarketplaceMeteringClient.builder().region(Region.of(name)).build());
        switch (operation) {
            case "BatchMeterUsage":
                return client.batchMeterUsage(filled(BatchMeterUsageRequest.builder(), request).build());
            case "MeterUsage":
                return client.meterUsage(filled(MeterUsageRequest.builder(), request).build());
            case "RegisterUsage":
                return client.registerUsage(filled(RegisterUsageRequest.builder(), request).build());
            default:
                return client.resolveCustomer(filled(ResolveCustomerRequest.builder(), request).build());
        }
    }

    private static <T extends SdkPojo> T filled(T builder, JsonNode members) {
        Map<String, SdkField<?>> known = new HashMap<>();
        builder.sdkFields().forEach(field -> known.put(field.locationName(), field));
        members.asObject().forEach((name, value) -> {
            if (!known.containsKey(name)) {
                throw new Unknown();
            }
            known.get(name).set(builder, read(known.get(name), value));
        });
        return builder;
    }

    private static Object read(SdkField<?> field, JsonNode value) {
        MarshallingType<?> type = field.marshallingType();
        if (type == MarshallingType.LIST) {
            List<Object> parts = new ArrayList<>();
            SdkField<?> part = field.getTrait(ListTrait.class).memberFieldInfo();
            value.asArray().forEach(one -> parts.add(read(part, one)));
            return parts;
        }
        if (type == MarshallingType.SDK_POJO) {
            return ((Buildable) filled(field.constructor().get(), value)).build();
        }
        if (type == MarshallingType.INSTANT) {
            return Instant.ofEpochMilli(Math.round(Double.parseDouble(value.asNumber()) * 1000));
        }
        if (type == MarshallingType.BOOLEAN) {
            return value.asBoolean();
        }
        if (type == MarshallingType.INTEGER) {
            try {
                return Integer.valueOf(value.asNumber());
            } catch (NumberFormatException error) {
                throw SdkClientException.create("not an int: " + value.asNumber());
            }
        }
        return value.asString();
    }

    private static Object written(Object value) {
        if (value instanceof SdkPojo) {
            Map<String, Object> members = new LinkedHashMap<>();
            for (SdkField<?> field : ((SdkPojo) value).sdkFields()) {
                Object part = field.getValueOrDefault(value);
                if (part != null) {
                    members.put(field.locationName(), written(part));
                }
            }
            return members;
        }
        if (value instanceof List) {
            List<Object> parts = new ArrayList<>();
            ((List<?>) value).forEach(part -> parts.add(written(part)));
            return parts;
        }
        return value instanceof Number || value instanceof Boolean ? value : value.toString();
    }

    private static void say(Map<String, ?> members) {
        StringBuilder text = new StringBuilder();
        write(members, text);
        System.out.println(text);
    }

    private static void write(Object value, StringBuilder text) {
        if (value instanceof Map) {
            String separator = "{";
            for (Map.Entry<?, ?> member : ((Map<?, ?>) value).entrySet()) {
                text.append(separator);
                write(member.getKey(), text);
                text.append(':');
                write(member.getValue(), text);
                separator = ",";
            }
            text.append(separator.equals("{") ? "{}" : "}");
        } else if (value instanceof List) {
            String separator = "[";
            for (Object part : (List<?>) value) {
                text.append(separator);
                write(part, text);
                separator = ",";
            }
            text.append(separator.equals("[") ? "[]" : "]");
        } else if (value instanceof String) {
            text.append('"');
            for (char one : ((String) value).toCharArray()) {
                text.append(one < ' ' || one == '"' || one == '\\' || one > '~' ? String.format("\\u%04x", (int) one) : String.valueOf(one));
            }
            text.append('"');
        } else {
            text.append(value);
        }
    }
}

using System.Collections;
using System.Globalization;
using System.Text.Json.Nodes;
using Google.Protobuf;
using Google.Protobuf.Reflection;

namespace FramePin.Cli;

/// <summary>
/// Messages as JSON for programs: protobuf's form, with every field, empty lists included, and with addresses in hex.
/// </summary>
internal static class JsonMessages
{
    private static readonly JsonFormatter Formatter = new(
        JsonFormatter.Settings.Default.WithFormatDefaultValues(true));

    /// <summary>Fields that hold an address in every message that has them.</summary>
    private static readonly HashSet<string> Addresses = new(StringComparer.Ordinal)
    {
        "address", "brk", "end", "mmap_base", "new_address", "stack_top", "start", "start_brk", "user_pointer",
    };

    /// <summary>A message as JSON.</summary>
    public static JsonObject ToJson(IMessage message)
    {
        var json = JsonNode.Parse(Formatter.Format(message))!.AsObject();
        ShowAddresses(json, message);
        return json;
    }

    /// <summary>Writes a number of the JSON as an address.</summary>
    public static void ShowAddress(JsonObject json, string field)
    {
        if (json[field]?.ToString() is { } digits
            && ulong.TryParse(digits, NumberStyles.None, CultureInfo.InvariantCulture, out var address))
            json[field] = Values.Hex(address);
    }

    private static void ShowAddresses(JsonObject json, IMessage message)
    {
        foreach (var field in message.Descriptor.Fields.InDeclarationOrder())
        {
            if (json[field.JsonName] is not { } node) continue;
            if (field.FieldType is FieldType.Fixed64 or FieldType.UInt64 && Addresses.Contains(field.Name))
                ShowAddress(json, field.JsonName);
            if (field.FieldType != FieldType.Message || field.IsMap) continue;
            var value = field.Accessor.GetValue(message);
            if (!field.IsRepeated)
            {
                if (node is JsonObject inner) ShowAddresses(inner, (IMessage)value);
                continue;
            }

            foreach (var (part, of) in node.AsArray().Zip(((IList)value).Cast<IMessage>()))
                if (part is JsonObject inner) ShowAddresses(inner, of);
        }
    }
}

using System.Text.RegularExpressions;
using FramePin.V1;
using Google.Protobuf.Reflection;
using Xunit;

namespace FramePin.Tests.Integration.Wire;

/// <summary>
/// The rules of the wire that buf has no lint for, over the descriptors of framepin.v1. An exception stands in the list
/// of its rule with its reason, and one that nothing needs fails.
/// </summary>
public sealed partial class DescriptorTests
{
    private static readonly Dictionary<string, string> MutatingWithoutRequestId = new(StringComparer.Ordinal)
    {
        ["AuditMachine"] = "counts and compares, and changes nothing",
        ["ReadMemory"] = "a repeat reads again",
        ["WriteMemory"] = "a repeat stores the same bytes at the same place",
        ["KeepAlive"] = "a repeat is one more sign of life",
        ["PinStream"] = "the session and the sequence of a batch identify it",
        ["ServeDriver"] = "a stream stands for its node and ends with it",
        ["ServeFaults"] = "a stream stands for its handler and ends with it",
        ["WatchInvalidations"] = "changes nothing; resume_after takes a broken watch up",
    };

    private static readonly Dictionary<string, string> ReadingWithRequestId = new(StringComparer.Ordinal)
    {
        ["GetVaddrFrames"] = "the kernel's function of this name takes references",
    };

    private static readonly Dictionary<string, string> ResponsesOfOtherNames = new(StringComparer.Ordinal)
    {
        ["PinStream"] = "a stream's messages are named after what they are: a batch's result",
        ["ServeDriver"] = "the daemon is who asks: a call",
        ["ServeFaults"] = "the daemon is who asks: a fault",
        ["WatchInvalidations"] = "a stream's messages are named after what they are: an event",
    };

    private static readonly Dictionary<string, string> StreamsWithoutRefusals = new(StringComparer.Ordinal)
    {
        ["KeepAlive"] = "a lease that has ended ends the stream, and the status of the stream is the refusal",
        ["WatchInvalidations"] = "an acknowledgement is not refused",
    };

    /// <summary>Every method of every service of framepin.v1.</summary>
    internal static IEnumerable<MethodDescriptor> Methods => Files.SelectMany(file => file.Services)
        .SelectMany(service => service.Methods);

    private static IEnumerable<FileDescriptor> Files =>
        typeof(PinRequest).Assembly.GetTypes()
            .Where(type => type.Namespace == "FramePin.V1")
            .Where(type => type.Name.EndsWith("Reflection", StringComparison.Ordinal))
            .Select(type => (FileDescriptor)type.GetProperty("Descriptor")!.GetValue(null)!);

    private static IEnumerable<MessageDescriptor> Messages =>
        Files.SelectMany(file => file.MessageTypes).SelectMany(WithNested);

    [Fact]
    public void The_descriptors_are_those_of_the_published_protos()
    {
        var published = Directory.GetFiles(ProtoFolder, "*.proto").Select(Path.GetFileName).Order();
        Assert.Equal(published, Files.Select(file => Path.GetFileName(file.Name)).Order());
        Assert.True(Methods.Count() > 50);
    }

    [Fact]
    public void A_request_that_changes_something_has_a_request_id()
    {
        // Get and List read; whatever else a method is called, it changes something.
        static bool Reads(MethodDescriptor method) =>
            method.Name.StartsWith("Get", StringComparison.Ordinal)
            || method.Name.StartsWith("List", StringComparison.Ordinal);
        static bool HasRequestId(MethodDescriptor method) =>
            method.InputType.FindFieldByName("request_id") is { FieldType: FieldType.String, IsRepeated: false };
        Holds(
            Methods.Where(method => !Reads(method) && !HasRequestId(method)).Select(method => method.Name),
            MutatingWithoutRequestId);
        Holds(
            Methods.Where(method => Reads(method) && HasRequestId(method)).Select(method => method.Name),
            ReadingWithRequestId);
    }

    [Fact]
    public void A_list_comes_in_pages()
    {
        var lists = Methods.Where(method => method.Name.StartsWith("List", StringComparison.Ordinal)).ToList();
        Assert.NotEmpty(lists);
        foreach (var list in lists)
        {
            Assert.Equal(FieldType.UInt32, list.InputType.FindFieldByName("page_size")?.FieldType);
            Assert.Equal(FieldType.String, list.InputType.FindFieldByName("page_token")?.FieldType);
            Assert.Equal(FieldType.String, list.OutputType.FindFieldByName("next_page_token")?.FieldType);
            var entries = Assert.Single(list.OutputType.Fields.InDeclarationOrder(), field => field.IsRepeated);
            Assert.True(IsResource(entries.MessageType), $"{list.Name} lists {entries.MessageType.Name}");
        }
    }

    [Fact]
    public void Times_are_durations_and_timestamps_and_no_number_is_a_fraction()
    {
        static bool IsBad(FieldDescriptor field) =>
            field.FieldType is FieldType.Double or FieldType.Float || UnitOfTime().IsMatch(field.Name);
        Assert.Empty(
            Messages.SelectMany(message => message.Fields.InDeclarationOrder()).Where(IsBad)
                .Select(field => field.FullName));
    }

    [Fact]
    public void A_resource_stands_under_its_machine_by_name()
    {
        var protos = Directory.GetFiles(ProtoFolder, "*.proto").Select(System.IO.File.ReadAllText).ToList();
        var resources = Methods.Select(method => method.OutputType).Where(IsResource).Distinct().ToList();
        Assert.Contains(FrameVector.Descriptor, resources);
        foreach (var resource in resources)
        {
            // The descriptors have no comments: the pattern stands above the field in the text.
            var declaration = new Regex(
                $$"""^message {{resource.Name}} \{\n  // "(?<pattern>[^"]+)"\.\n  string name = 1;""",
                RegexOptions.Multiline);
            var match = protos.Select(text => declaration.Match(text)).SingleOrDefault(match => match.Success);
            Assert.True(match is not null, $"{resource.Name} does not say its name's pattern");
            var below = resource == V1.Machine.Descriptor ? "" : "/[a-z][a-zA-Z]*/{[a-z]+}";
            Assert.Matches($"^machines/{{machine}}{below}$", match.Groups["pattern"].Value);
        }
    }

    [Fact]
    public void A_response_is_named_after_its_method_or_is_the_resource_that_the_method_is_about()
    {
        static bool IsAbout(MethodDescriptor method)
        {
            var resource = method.OutputType;
            if (!IsResource(resource)) return false;
            var field = CapitalInside().Replace(resource.Name, "_$0").ToLowerInvariant();
            return method.Name.EndsWith(resource.Name, StringComparison.Ordinal)
                || method.InputType.FindFieldByName("name") is not null
                || method.InputType.FindFieldByName(field) is not null;
        }

        Holds(
            Methods.Where(method => method.OutputType.Name != method.Name + "Response" && !IsAbout(method))
                .Select(method => method.Name),
            ResponsesOfOtherNames);
    }

    [Fact]
    public void What_a_stream_refuses_stands_in_its_answer_as_a_status()
    {
        static bool HasRefusal(MessageDescriptor message) =>
            message.FindFieldByName("refusal")?.MessageType.FullName == "google.rpc.Status"
            || message.Fields.InDeclarationOrder()
                .Where(field => field is { IsRepeated: true, FieldType: FieldType.Message })
                .Any(field => HasRefusal(field.MessageType));
        Holds(
            Methods.Where(method => method is { IsClientStreaming: true, IsServerStreaming: true })
                .Where(method => !HasRefusal(method.OutputType)).Select(method => method.Name),
            StreamsWithoutRefusals);
    }

    private static string ProtoFolder => Path.Combine(AppContext.BaseDirectory, "protos", "framepin", "v1");

    /// <summary>The breaches of a rule are those that its list of exceptions names, and no others.</summary>
    private static void Holds(IEnumerable<string> broken, Dictionary<string, string> exceptions)
    {
        Assert.All(exceptions.Values, reason => Assert.NotEmpty(reason));
        Assert.Equal(exceptions.Keys.Order(StringComparer.Ordinal), broken.Order(StringComparer.Ordinal));
    }

    /// <summary>A message with a name of its own, which other calls take.</summary>
    private static bool IsResource(MessageDescriptor message) =>
        message.FindFieldByName("name") is { FieldType: FieldType.String, FieldNumber: 1 };

    private static IEnumerable<MessageDescriptor> WithNested(MessageDescriptor message) =>
        message.NestedTypes.SelectMany(WithNested).Prepend(message);

    [GeneratedRegex("_(ns|us|ms|s|secs?|seconds|millis|micros|nanos|minutes|hours)$")]
    private static partial Regex UnitOfTime();

    [GeneratedRegex("(?<!^)[A-Z]")]
    private static partial Regex CapitalInside();
}

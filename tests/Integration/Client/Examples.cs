using Xunit;

namespace FramePin.Tests.Integration.Client;

/// <summary>The example programs of the documents, which are run as they stand there.</summary>
internal static class Examples
{
    /// <summary>The endpoint that the documents name. A socket of the test takes its place.</summary>
    private const string Endpoint = "http://127.0.0.1:7461";

    /// <summary>The folder that holds FramePin.slnx.</summary>
    public static string Root { get; } = FindRoot();

    /// <summary>The one block of a document that is marked with a language, for the daemon of a test.</summary>
    public static string Read(string markdown, string language, string endpoint)
    {
        var blocks = Blocks(markdown, language).ToList();
        Assert.True(blocks.Count == 1, $"{blocks.Count} blocks are marked {language}, one is expected");
        var program = blocks[0].Replace(Endpoint, endpoint, StringComparison.Ordinal)
            .Replace(Endpoint["http://".Length..], endpoint, StringComparison.Ordinal);
        Assert.True(program != blocks[0], $"the program in {language} names no endpoint");
        return program;
    }

    /// <summary>The one line of the blocks marked sh that begins with a program, and the lines that go on from
    /// it.</summary>
    public static string Command(string markdown, string program)
    {
        var lines = Blocks(markdown, "sh")
            .SelectMany(block => block.Replace("\\\n", "", StringComparison.Ordinal).Split('\n'))
            .Where(line => line.StartsWith($"{program} ", StringComparison.Ordinal)).ToList();
        Assert.True(lines.Count == 1, $"{lines.Count} lines begin with {program}, one is expected");
        return lines[0];
    }

    private static IEnumerable<string> Blocks(string markdown, string language)
    {
        string? marked = null;
        var lines = new List<string>();
        foreach (var line in markdown.Split('\n'))
        {
            if (!line.StartsWith("```", StringComparison.Ordinal))
            {
                if (marked == language) lines.Add(line);
                continue;
            }

            if (marked == language) yield return string.Join('\n', lines) + '\n';
            lines.Clear();
            marked = marked is null ? line[3..].Trim() : null;
        }
    }

    private static string FindRoot()
    {
        var folder = AppContext.BaseDirectory;
        while (!File.Exists(Path.Combine(folder, "FramePin.slnx")))
            folder = Path.GetDirectoryName(folder) ?? throw new InvalidOperationException("no FramePin.slnx above");
        return folder;
    }
}

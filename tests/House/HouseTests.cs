using System.Text.RegularExpressions;
using Xunit;

namespace FramePin.Tests.House;

/// <summary>The order of the house: rooms depend one way, documents name files that exist.</summary>
public sealed partial class HouseTests
{
    /// <summary>Rooms of Core from left to right: each may use only those before it.</summary>
    private static readonly string[] Rooms =
        ["Abi", "Addressing", "Native", "Frames", "PageTables", "Backing", "Vmas", "Kernel", "Faults", "Pinning",
            "Syscalls", "Inspection", "Access", "Machines"];

    private static readonly string Root = FindRoot();

    [GeneratedRegex(@"FramePin\.Core\.(\w+)")]
    private static partial Regex CoreRoom();

    [GeneratedRegex("`((?:src|tests|protos|deploy|\\.ci)/[^`\\s]*|[A-Z]+\\.md)`")]
    private static partial Regex NamedFile();

    [Fact]
    public void Rooms_of_core_depend_leftwards_only()
    {
        var wrong = new List<string>();
        for (var i = 0; i < Rooms.Length; i++)
        {
            var later = Rooms[(i + 1)..];
            foreach (var file in Directory.EnumerateFiles(Path.Combine(Root, "src/Core", Rooms[i]), "*.cs"))
                foreach (Match match in CoreRoom().Matches(File.ReadAllText(file)))
                    if (later.Contains(match.Groups[1].Value))
                        wrong.Add($"{Path.GetRelativePath(Root, file)} uses {match.Value}");
        }

        Assert.Empty(wrong);
    }

    [Fact]
    public void Every_room_of_core_is_in_the_order()
    {
        var folders = Directory.EnumerateDirectories(Path.Combine(Root, "src/Core")).Select(Path.GetFileName)
            .Where(name => name is not ("bin" or "obj" or "Semantics"));
        Assert.Equal(Rooms.Order(StringComparer.Ordinal), folders.Order(StringComparer.Ordinal));
    }

    [Fact]
    public void Unsafe_code_stays_in_the_native_room()
    {
        var outside = Directory.EnumerateFiles(Path.Combine(Root, "src"), "*.cs", SearchOption.AllDirectories)
            .Where(file => !file.Contains("/Native/", StringComparison.Ordinal))
            .Where(file => Regex.IsMatch(
                File.ReadAllText(file), @"\bunsafe\s+(class|struct|void|static|partial|\{)|static unsafe"));
        Assert.Empty(outside);
    }

    [Fact]
    public void Core_references_no_package()
    {
        var project = File.ReadAllText(Path.Combine(Root, "src/Core/FramePin.Core.csproj"));
        Assert.DoesNotContain("PackageReference", project, StringComparison.Ordinal);
        Assert.DoesNotContain("ProjectReference", project, StringComparison.Ordinal);
    }

    [Fact]
    public void Documents_name_files_that_exist()
    {
        var missing = new List<string>();
        foreach (var document in Directory.EnumerateFiles(Root, "*.md", SearchOption.AllDirectories))
        {
            if (document.Contains("/artifacts/", StringComparison.Ordinal)
                || document.Contains("/tmp/", StringComparison.Ordinal))
                continue;
            foreach (Match match in NamedFile().Matches(File.ReadAllText(document)))
            {
                var path = Path.Combine(Root, match.Groups[1].Value.TrimEnd('/'));
                if (!File.Exists(path) && !Directory.Exists(path))
                    missing.Add($"{Path.GetRelativePath(Root, document)} names {match.Groups[1].Value}");
            }
        }

        Assert.Empty(missing);
    }

    [Fact]
    public void Frame_records_and_native_structs_have_the_size_that_their_comments_state()
    {
        Assert.Equal(8, System.Runtime.CompilerServices.Unsafe.SizeOf<FramePin.Core.Frames.FrameState>());
        Assert.Equal(24, System.Runtime.CompilerServices.Unsafe.SizeOf<FramePin.Core.Frames.FrameInfo>());
    }

    private static string FindRoot()
    {
        var folder = AppContext.BaseDirectory;
        while (!File.Exists(Path.Combine(folder, "FramePin.slnx")))
            folder = Path.GetDirectoryName(folder)
                ?? throw new InvalidOperationException("no FramePin.slnx above the tests");
        return folder;
    }
}

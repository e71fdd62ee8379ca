using System.Diagnostics;
using Xunit;

namespace FramePin.Tests.House;

/// <summary>The list of exceptions may only shrink.</summary>
public sealed class ExceptionListTests
{
    private const string Text = "# head\nlines\ta.cs\t410\nlines\tb.cs\t500\nrooms\ta.cs\t1\n";

    [Fact]
    public void What_is_on_the_list_is_allowed() =>
        Assert.Empty(ExceptionList.Read(Text).Judge("lines", [new("a.cs", 410, ""), new("b.cs", 450, "")]));

    [Theory]
    [InlineData("c.cs", 401)]
    [InlineData("a.cs", 411)]
    public void What_is_not_on_the_list_and_what_grows_fails(string place, int measure)
    {
        Finding[] findings = [new("a.cs", 410, ""), new("b.cs", 500, ""), new(place, measure, "")];
        var wrong = Assert.Single(ExceptionList.Read(Text).Judge("lines", findings));
        Assert.StartsWith(place, wrong, StringComparison.Ordinal);
    }

    [Fact]
    public void An_entry_that_nothing_needs_fails() => Assert.Contains(
        "not needed", Assert.Single(ExceptionList.Read(Text).Judge("lines", [new("a.cs", 410, "")])),
        StringComparison.Ordinal);

    [Fact]
    public void Tightening_takes_off_and_lowers_and_adds_nothing()
    {
        var list = ExceptionList.Read(Text);
        list.Tighten("lines", [new("a.cs", 405, ""), new("c.cs", 999, "")]);
        Assert.Equal("# head\nlines\ta.cs\t405\nrooms\ta.cs\t1\n", list.ToString());
    }

    /// <summary>
    /// In no commit since the list was closed may a guard's part of it have been shorter than it is now. Where there is
    /// no history, as in an unpacked archive, there is nothing to compare with, and the test says so.
    /// </summary>
    [Fact]
    public void The_list_is_nowhere_longer_than_it_was_once()
    {
        var now = ExceptionList.Read(Repository.Read(ExceptionList.File)).Counts;
        if (!Path.Exists(Path.Combine(Repository.Root, ".git"))) Assert.Skip("not a clone: no history to compare with");

        var history = Git("log", "--format=%H", "--reverse", "--", ExceptionList.File)
            .Split('\n', StringSplitOptions.RemoveEmptyEntries)
            .Select(commit => ExceptionList.Read(Git("show", $"{commit}:{ExceptionList.File}")))
            .Where(list => list.IsClosed).Select(list => list.Counts).ToList();
        Assert.Empty(Growth(history, now));
    }

    [Theory]
    [InlineData(3, 2, 2, false)]
    [InlineData(3, 2, 3, true)]
    [InlineData(3, 0, 1, true)]
    [InlineData(0, 3, 3, false)]
    public void Growth_is_seen_in_a_history(int first, int second, int now, bool grew)
    {
        Dictionary<string, int> Counts(int count) => count == 0 ? [] : new() { ["lines"] = count };
        Assert.Equal(grew, Growth([Counts(first), Counts(second)], Counts(now)).Any());
    }

    /// <summary>Guards whose number of entries was once smaller than now, after they had come.</summary>
    private static IEnumerable<string> Growth(
        IReadOnlyList<IReadOnlyDictionary<string, int>> history, IReadOnlyDictionary<string, int> now)
    {
        foreach (var (guard, count) in now)
        {
            var counts = history.Select(counts => counts.GetValueOrDefault(guard)).SkipWhile(past => past == 0)
                .ToList();
            if (counts.Count > 0 && counts.Min() < count)
                yield return $"{guard}: {count} exceptions, and there were {counts.Min()} once";
        }
    }

    private static string Git(params string[] arguments)
    {
        var start = new ProcessStartInfo("git", arguments)
        {
            WorkingDirectory = Repository.Root,
            RedirectStandardOutput = true,
        };
        using var git = Process.Start(start)!;
        var output = git.StandardOutput.ReadToEnd();
        git.WaitForExit();
        Assert.Equal(0, git.ExitCode);
        return output;
    }
}

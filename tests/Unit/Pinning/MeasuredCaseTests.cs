using System.Globalization;
using System.Text.RegularExpressions;
using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Backing;
using FramePin.Core.Faults;
using FramePin.Core.Frames;
using FramePin.Core.Inspection;
using FramePin.Core.Kernel;
using FramePin.Core.Machines;
using FramePin.Core.Pinning;
using FramePin.Tests.Support;
using Xunit;

namespace FramePin.Tests.Unit.Pinning;

/// <summary>
/// The single cases that were measured inside kernels 6.1 and 6.12: references while held, arguments, flags, FORCE,
/// fork, migration, counters. Each line of the files is made anew and compared as text, without frame numbers.
/// </summary>
public sealed partial class MeasuredCaseTests
{
    private const ulong At = 0x1000_0000;
    private const ulong Huge = PageGeometry.PmdSize;
    private const int Pages = 8;

    [GeneratedRegex(@"ref (\d+) map (-?\d+)")]
    private static partial Regex RefAndMap();

    [Theory]
    [InlineData("6.1")]
    [InlineData("6.12")]
    public void References_while_held(string profile)
    {
        var lines = Section(profile, "refcounts");
        using var lab = new Lab(
            profile, options => options with { HugePages2M = 2, Thp = ThpMode.MAdvise, AuditsEachCommand = false });
        var actual = new List<string>();
        lab.Anon(At, Pages);
        Hold(lab, actual, "get_user_pages_fast r x1", At, 1, GupCall.GetUserPagesFast, GupFlags.None);
        HoldOver(lab, actual, "pin_user_pages_fast W|LT x1", "... after munmap", At, 1, GupCall.PinUserPagesFast, () =>
            lab.Machine.Munmap(lab.Space, At, Lab.Page));
        lab.Anon(At, Pages);
        HoldOver(lab, actual, "get_vaddr_frames(write) x8", "... after DONTNEED", At, Pages, null, () =>
            lab.Machine.Madvise(lab.Space, At, Pages * Lab.Page, Advice.DontNeed));
        lab.Anon(0x2000_0000, 512, written: false);
        lab.Machine.Madvise(lab.Space, 0x2000_0000, Huge, Advice.HugePage);
        lab.Write(0x2000_0000, 1);
        Hold(lab, actual, "pin 8 pages of one THP (ref=folio)", 0x2000_5000, Pages, GupCall.PinUserPagesFast,
            GupFlags.Write | GupFlags.LongTerm);
        Assert.True(
            lab.Map(0x3000_0000, 512, Prot.Read | Prot.Write,
                MapFlags.Private | MapFlags.Anonymous | MapFlags.Fixed | MapFlags.HugeTlb).IsOk);
        lab.Write(0x3000_0000, 1);
        Hold(lab, actual, "pin 8 pages of one hugetlb", 0x3000_0000, Pages, GupCall.PinUserPagesFast,
            GupFlags.Write | GupFlags.LongTerm);
        lab.Anon(0x5000_0000, 1, written: false);
        lab.Load(0x5000_0000, 1);
        // Eight times the same page: the zero page, until something puts another in its place.
        foreach (var (name, call, flags) in new[]
        {
            ("pin_user_pages_fast r zero page x8", GupCall.PinUserPagesFast, GupFlags.None),
            ("pin_user_pages_fast LT zero page x8", GupCall.PinUserPagesFast, GupFlags.LongTerm),
            ("get_user_pages_fast r zero page x8", GupCall.GetUserPagesFast, GupFlags.None),
        })
            HoldZero(lab, actual, name, call, flags);
        Assert.Equal(lines.Select(line => Normal(line)), actual);
    }

    [Theory]
    [InlineData("6.1")]
    [InlineData("6.12")]
    public void Arguments(string profile)
    {
        foreach (var line in Section(profile, "argument cases"))
        {
            var name = line.Split(' ')[0];
            // The guests had page tables of five levels. The address measured as TASK_SIZE_MAX is that of four levels.
            using var lab = new Lab(profile, options => options with { PageTableLevels = 5 });
            lab.Anon(At, Pages);
            var limit = PageGeometry.MapWindow;
            var cases = new List<string>
            {
                name.Contains("_fast", StringComparison.Ordinal)
                    ? "nr=0: (skipped: overruns the array)"
                    : $"nr=0: {Run(lab, name, At, 0)}",
                $"nr=9 of 8: {Run(lab, name, At, 9)}",
                $"unmapped nr=1: {Run(lab, name, 0x7000_0000, 1)}",
                $"at TASK_SIZE_MAX: {Run(lab, name, limit, 1)}",
                $"crosses TASK_SIZE_MAX: {Run(lab, name, limit - Lab.Page, 8)}",
                $"wraps: {Run(lab, name, ulong.MaxValue - (2 * Lab.Page) + 1, 8)}",
            };
            Assert.Equal(Regex.Replace(line, @"\s+", " "), $"{name} {string.Join(' ', cases)}");
        }
    }

    [Theory]
    [InlineData("6.1")]
    [InlineData("6.12")]
    public void Illegal_flags(string profile)
    {
        foreach (var line in Section(profile, "invalid flag combinations"))
        {
            var parts = line.Split(' ', StringSplitOptions.RemoveEmptyEntries);
            using var lab = new Lab(profile);
            lab.Anon(At, 4);
            var result = lab.Gup(
                CallOf(parts[0]), At, 4, FlagsOf(parts[1]), out var vector, LockedArgument.Held).Result;
            Assert.True(parts[2] == Raw(result), $"{line}: here {Raw(result)}");
            lab.Drop(vector);
        }
    }

    [Theory]
    [InlineData("6.1")]
    [InlineData("6.12")]
    public void Force_writes_copy_and_fork_copies_what_is_pinned(string profile)
    {
        var force = Section(profile, "FORCE write");
        using var lab = new Lab(profile);
        lab.Anon(At, 1);
        lab.Machine.Mprotect(lab.Space, At, Lab.Page, Prot.Read);
        lab.File(0x2000_0000, 1, FileKind.Disk, MapFlags.Private, Prot.Read);
        var anon = lab.Gup(GupCall.GetUserPagesRemote, At, 1, GupFlags.Force | GupFlags.Write, out var a).Result;
        var file = lab.Gup(
            GupCall.GetUserPagesRemote, 0x2000_0000, 1, GupFlags.Force | GupFlags.Write, out var b).Result;
        var isAnon = (lab.View(b).Flags & FrameFlags.Anon) != 0 ? 1 : 0;
        Assert.Equal(force.Select(Squeezed),
            [$"anon RO written: ret {Raw(anon)}", $"ext4 private RO: ret {Raw(file)} anon {isAnon}"]);
        lab.Drop(a, b);

        var fork = Assert.Single(Section(profile, "pin then fork"));
        lab.Anon(At, 2);
        lab.Gup(GupCall.PinUserPagesFast, At, 1, GupFlags.Write | GupFlags.LongTerm, out var pinned);
        var parent = lab.ViewAt(At).Pfn;
        var child = lab.Fork();
        var first = lab.ViewAt(At, child).Pfn == parent ? "shared" : "copied";
        var second = lab.ViewAt(At + Lab.Page, child).Pfn == lab.ViewAt(At + Lab.Page).Pfn ? "shared" : "copied";
        Assert.Equal(
            Regex.Replace(Squeezed(fork), "pfn [0-9a-f]+", "pfn"),
            $"parent pinned pfn; child page0 pfn ({first}), page1 (unpinned) {second}");
        lab.Drop(pinned);
    }

    [Theory]
    [InlineData("6.1", true)]
    [InlineData("6.12", true)]
    [InlineData("6.1", false)]
    [InlineData("6.12", false)]
    public void Long_term_pins_leave_zone_movable(string profile, bool hasMovable)
    {
        // "the same in a guest without ZONE_MOVABLE: nothing migrates, +8/-0"
        foreach (var line in Section(profile, "ZONE_MOVABLE"))
        {
            var name = line.Split("  ")[0].Trim();
            using var lab = new Lab(profile,
                options => options with { MovableMemory = hasMovable ? 32UL << 20 : 0, Thp = ThpMode.MAdvise });
            var start = Migrating(lab, name.Split(',')[0]);
            var before = lab.Machine.Translate(lab.Space, start);
            var (acquired, released) = (lab.Machine.PinStatistics.Acquired, lab.Machine.PinStatistics.Released);
            var vector = lab.Vector(Pages);
            var result = name.Contains("get_vaddr_frames(w)", StringComparison.Ordinal)
                || name.EndsWith("gvf(w)", StringComparison.Ordinal)
                ? lab.Machine.GetVaddrFrames(lab.Space, start, Pages, GupFlags.Write, vector).Result
                : lab.Machine.Gup(
                    lab.Space, name.Contains("get_fast", StringComparison.Ordinal)
                        ? GupCall.GetUserPagesFast
                        : GupCall.PinUserPagesFast, start, Pages,
                    (name.Contains(" W", StringComparison.Ordinal) ? GupFlags.Write : 0)
                        | (name.Contains("LT", StringComparison.Ordinal) ? GupFlags.LongTerm : 0),
                    LockedArgument.Null, vector).Result;
            var moved = before is { } old && old != lab.Machine.Translate(lab.Space, start) ? "MIGRATED " : "";
            var here = string.Create(
                CultureInfo.InvariantCulture,
                $"ret {Raw(result)} {moved}+{lab.Machine.PinStatistics.Acquired - acquired}"
                + $"/-{lab.Machine.PinStatistics.Released - released}");
            var expected = Squeezed(Regex.Replace(
                line[line.IndexOf("ret ", StringComparison.Ordinal)..], "pfn [0-9a-f]+ -> [0-9a-f]+", ""));
            if (!hasMovable) expected = expected.Replace("MIGRATED +16/-8", "+8/-0", StringComparison.Ordinal);
            Assert.True(expected == here, $"{line}: here {here}");
            lab.Drop(vector);
        }
    }

    [Theory]
    [InlineData("6.1")]
    [InlineData("6.12")]
    public void Counters_are_exact(string profile)
    {
        foreach (var line in Section(profile, "vmstat exactness"))
        {
            var name = line.Split("  ", StringSplitOptions.RemoveEmptyEntries)[0].Trim();
            using var lab = new Lab(profile);
            lab.Anon(At, Pages);
            var (acquired, released) = (lab.Machine.PinStatistics.Acquired, lab.Machine.PinStatistics.Released);
            var vector = lab.Vector(Pages);
            var parts = name.Split(' ', 2);
            var result = name.StartsWith("gvf", StringComparison.Ordinal)
                ? lab.Machine.GetVaddrFrames(lab.Space, At, Pages, name == "gvf(w)" ? GupFlags.Write : 0, vector).Result
                : lab.Machine.Gup(lab.Space, CallOf(parts[0]), At, Pages, FlagsOf(parts[1].Replace(' ', '|')),
                    LockedArgument.Held, vector).Result;
            lab.Drop(vector);
            var here = string.Create(
                CultureInfo.InvariantCulture,
                $"{name} ret {Raw(result)} +{lab.Machine.PinStatistics.Acquired - acquired}"
                + $"/-{lab.Machine.PinStatistics.Released - released}");
            Assert.True(Squeezed(line) == here, $"{line}: here {here}");
        }
    }

    private static ulong Migrating(Lab lab, string kind)
    {
        switch (kind)
        {
            case "anon": return lab.Anon(At, Pages);
            case "anon untouched": return lab.Anon(At, Pages, written: false);
            case "shared anon":
                lab.SharedAnon(At, Pages);
                lab.Write(At, Pages);
                return At;
            case "memfd": return lab.File(At, Pages, FileKind.Shmem, MapFlags.Shared, Prot.Read | Prot.Write);
            case "ext4 shared":
                lab.File(At, Pages, FileKind.Disk, MapFlags.Shared, Prot.Read | Prot.Write);
                lab.Write(At, Pages);
                return At;
            default:
                lab.Anon(0x2000_0000, 512, written: false);
                lab.Machine.Madvise(lab.Space, 0x2000_0000, Huge, Advice.HugePage);
                lab.Write(0x2000_0000, 1);
                return 0x2000_0000 + (5 * Lab.Page);
        }
    }

    private static void Hold(
        Lab lab, List<string> lines, string name, ulong start, int pages, GupCall call, GupFlags flags) =>
        HoldOver(lab, lines, name, null, start, pages, call, null, flags);

    private static void HoldOver(
        Lab lab, List<string> lines, string name, string? after, ulong start, int pages, GupCall? call, Action? change,
        GupFlags flags = GupFlags.Write | GupFlags.LongTerm)
    {
        var before = lab.ViewAt(start).RefCount;
        var vector = lab.Vector(pages);
        var result = call is { } gup
            ? lab.Machine.Gup(lab.Space, gup, start, pages, flags, LockedArgument.Null, vector).Result
            : lab.Machine.GetVaddrFrames(lab.Space, start, pages, GupFlags.Write, vector).Result;
        lines.Add(Described(name, result, lab.View(vector), before));
        if (change is not null)
        {
            change();
            lines.Add(Described(after!, result, lab.View(vector), 0));
        }

        lab.Drop(vector);
    }

    private static void HoldZero(Lab lab, List<string> lines, string name, GupCall call, GupFlags flags)
    {
        var vectors = new List<FrameVector>();
        var before = -1;
        GupResult result = default;
        for (var i = 0; i < Pages; i++)
        {
            result = lab.Gup(call, 0x5000_0000, 1, flags, out var vector).Result;
            vectors.Add(vector);
            // The first may put another page in place; what it held before counts from that page.
            if (before < 0)
            {
                var view = lab.View(vector);
                var isZero = (view.Flags & FrameFlags.Zero) != 0;
                before = isZero ? view.RefCount - (call == GupCall.GetUserPagesFast ? 1 : 0)
                    : view.RefCount - (call == GupCall.GetUserPagesFast ? 1 : 1024);
                // Where each page is its own, one of them is looked at.
                if (!isZero) break;
            }
        }

        lines.Add(Described(name, GupResult.Of(Pages), lab.View(vectors[0]), before));
        Assert.Equal(Errno.None, result.Error);
        lab.Drop([.. vectors]);
    }

    private static string Described(string name, GupResult result, PageView page, int before) => string.Create(
        CultureInfo.InvariantCulture,
        $"{name} n={Raw(result)} held {page.RefCount - before} map {page.MapCount}"
            + $"{(page.MaybeDmaPinned ? " maybe_dma_pinned" : "")}");

    /// <summary>
    /// A line without frame number, with the references that the call itself took: the base varies with the state of
    /// the LRU, and a hugetlb folio's map count prints as nonsense on 6.12.
    /// </summary>
    private static string Normal(string line)
    {
        var text = Squeezed(Regex.Replace(line, "pfn [0-9a-f]+ ", ""));
        return RefAndMap().Replace(text, match =>
        {
            var references = int.Parse(match.Groups[1].Value, CultureInfo.InvariantCulture);
            var maps = int.Parse(match.Groups[2].Value, CultureInfo.InvariantCulture);
            var held = references >= 1024 ? references & ~1023 : references == 3 ? 1 : references - 1;
            return string.Create(CultureInfo.InvariantCulture, $"held {held} map {(maps < 0 ? 1 : maps)}");
        });
    }

    private static string Run(Lab lab, string name, ulong start, long count)
    {
        var vector = lab.Vector(Pages);
        var result = name == "get_vaddr_frames"
            ? lab.Machine.GetVaddrFrames(lab.Space, start, count, GupFlags.Write, vector).Result
            : lab.Machine.Gup(
                lab.Space, CallOf(name), start, count, GupFlags.Write, LockedArgument.Held, vector).Result;
        lab.Drop(vector);
        return Raw(result);
    }

    private static GupCall CallOf(string name) => name switch
    {
        "pin_user_pages_fast" or "pin_fast" or "pinF" => GupCall.PinUserPagesFast,
        "get_user_pages_fast" or "get_fast" or "getF" => GupCall.GetUserPagesFast,
        "pin_user_pages" or "pup" => GupCall.PinUserPages,
        "get_user_pages" or "gup" => GupCall.GetUserPages,
        "pin_user_pages_unlocked" => GupCall.PinUserPagesUnlocked,
        "get_user_pages_unlocked" or "get_unlocked" => GupCall.GetUserPagesUnlocked,
        "pin_user_pages_remote" or "pin_remote" or "pupR" => GupCall.PinUserPagesRemote,
        "get_user_pages_remote" or "get_remote" or "gupR" => GupCall.GetUserPagesRemote,
        "get_user_pages_fast_only" or "fast_only" => GupCall.GetUserPagesFastOnly,
        _ => throw new FormatException(name),
    };

    private static GupFlags FlagsOf(string names) =>
        names.Split('|').Aggregate(GupFlags.None, (flags, name) => flags | name switch
        {
            "W" or "WRITE" => GupFlags.Write,
            "LT" or "LONGTERM" => GupFlags.LongTerm,
            "F" or "FORCE" => GupFlags.Force,
            "HWP" or "HWPOISON" => GupFlags.HwPoison,
            "DUMP" => GupFlags.Dump,
            "ANON" => GupFlags.Anon,
            "NOWAIT" => GupFlags.NoWait,
            "NOFAULT" => GupFlags.NoFault,
            "r" => GupFlags.None,
            _ => throw new FormatException(names),
        });

    private static string Raw(GupResult result) => result.Raw.ToString(CultureInfo.InvariantCulture);

    private static string Squeezed(string line) => Regex.Replace(line.Trim(), @"\s+", " ");

    private static List<string> Section(string profile, string heading)
    {
        var lines = File.ReadAllLines(Path.Combine(AppContext.BaseDirectory, "Data", $"gup-cases-{profile}.txt"));
        var start = Array.FindIndex(lines, line => line.StartsWith("== ", StringComparison.Ordinal)
            && line.Contains(heading, StringComparison.Ordinal));
        Assert.True(start >= 0, heading);
        return [.. lines.Skip(start + 1).TakeWhile(line => !line.StartsWith("==", StringComparison.Ordinal)).Where(
            line => line.Length > 0).Select(line => line.Trim())];
    }
}

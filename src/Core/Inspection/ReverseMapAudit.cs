using System.Runtime.InteropServices;
using FramePin.Core.Addressing;
using FramePin.Core.Backing;
using FramePin.Core.Frames;
using FramePin.Core.Kernel;
using FramePin.Core.PageTables;
using FramePin.Core.Vmas;

namespace FramePin.Core.Inspection;

/// <summary>
/// Checks the reverse maps against a scan of every area and every entry of every address space. Part of the audit.
/// </summary>
internal static class ReverseMapAudit
{
    /// <summary>
    /// A sentence for each finding: a map that does not hold what the scan finds, in the order of the scan; and an
    /// anonymous entry that its frame would not be found by. Under the turn. Cost: all areas and all entries.
    /// </summary>
    public static void Run(KernelState kernel, List<string> findings)
    {
        var files = new Dictionary<MemoryFile, List<Vma>>();
        var anons = new Dictionary<AnonVma, List<Vma>>();
        foreach (var space in kernel.Spaces)
        {
            foreach (var vma in space.Vmas.All)
            {
                if (!ReferenceEquals(vma.Space, space)) findings.Add($"{space}: VMA {vma} is of {vma.Space}");
                if (vma.File is { } file) Add(files, file, vma);
                for (var link = vma.AnonChain; link is not null; link = link.Older) Add(anons, link.AnonVma, vma);
                if (vma.AnonVma is { } own && vma.AnonChain?.Contains(own) != true)
                    findings.Add($"{space}: VMA {vma} is not in the map of its own anon_vma {own.Id}");
                CheckEntries(kernel, vma, findings);
            }
        }

        foreach (var file in kernel.Files.Values)
            Compare($"file {file.Id}", file.Mappings, files.GetValueOrDefault(file, []), findings);
        foreach (var file in files.Keys)
            if (!kernel.Files.ContainsKey(file.Id)) findings.Add($"file {file.Id} is mapped and gone");
        foreach (var anon in anons.Keys)
            if (kernel.AnonVmas.Find(anon.Id) != anon) findings.Add($"anon_vma {anon.Id} has areas and is forgotten");
        foreach (var anon in kernel.AnonVmas.Live)
        {
            var areas = anons.GetValueOrDefault(anon, []);
            Compare($"anon_vma {anon.Id}", anon.Mappings, areas, findings);
            var owners = areas.Count(vma => ReferenceEquals(vma.AnonVma, anon));
            if (owners != anon.Owners)
                findings.Add($"anon_vma {anon.Id}: {anon.Owners} areas counted as owners, {owners} found");
        }
    }

    private static void Add<T>(Dictionary<T, List<Vma>> areas, T of, Vma vma) where T : class
    {
        ref var list = ref CollectionsMarshal.GetValueRefOrAddDefault(areas, of, out _);
        (list ??= []).Add(vma);
    }

    private static void Compare(string what, ReverseMap map, List<Vma> scanned, List<string> findings)
    {
        if (!map.All.SequenceEqual(scanned, ReferenceEqualityComparer.Instance))
            findings.Add($"{what}: the reverse map has {map.Count} areas, a scan {scanned.Count}, or in another order");
    }

    /// <summary>Each anonymous frame names an anon_vma of the area, and the page index that it has there.</summary>
    private static void CheckEntries(KernelState kernel, Vma vma, List<string> findings)
    {
        var frames = kernel.Memory.Frames;
        var leaf = vma.Space.PageTable.Leaves(vma.Range);
        while (leaf.MoveNext())
        {
            var entry = leaf.Entry;
            if (!Pte.IsMapped(entry) || (entry & (Pte.Special | Pte.Anon)) != Pte.Anon) continue;
            var head = frames.HeadOf(Pte.PfnOf(entry));
            var info = frames[head];
            var isListed = kernel.AnonVmas.Find(info.AnonVmaId) is { } anon && vma.AnonChain?.Contains(anon) == true;
            if (isListed && vma.IndexOf(leaf.Address) == info.Index + (Pte.PfnOf(entry).Value - head.Value)) continue;
            findings.Add(
                $"{vma.Space}: {Pte.PfnOf(entry)} at 0x{leaf.Address:x} is not found by anon_vma {info.AnonVmaId}, "
                + $"page {info.Index}");
        }
    }
}

namespace FramePin.Tests.Simulation;

/// <summary>A page of the model: one byte of contents stands for all.</summary>
internal sealed class ModelPage
{
    public byte Value { get; set; }

    /// <summary>Pins that hold it.</summary>
    public int Pins { get; set; }

    /// <summary>Private mappings of it, over all address spaces.</summary>
    public int Maps { get; set; }
}

internal sealed class ModelFile
{
    public int Pages { get; set; }

    public bool IsDisk { get; init; }

    public Dictionary<int, ModelPage> Cache { get; } = [];

    public ModelPage At(int index)
    {
        if (!Cache.TryGetValue(index, out var page)) Cache[index] = page = new ModelPage();
        return page;
    }
}

/// <summary>One mapped page of an address space.</summary>
internal sealed record ModelMapping(ModelFile? File, int Index, bool IsShared)
{
    public int Prot { get; set; }

    /// <summary>The private page, once there is one.</summary>
    public ModelPage? Own { get; set; }
}

/// <summary>
/// What Linux does, as naively as it can be said: dictionaries of pages, no page tables, no counts, no code of Core.
/// Answers what each operation must come to.
/// </summary>
internal sealed class NaiveModel
{
    public const int Read = 1;
    public const int Write = 2;

    public Dictionary<string, Dictionary<int, ModelMapping>> Spaces { get; } = new() { ["s0"] = [] };

    public List<ModelFile> Files { get; } = [new ModelFile { Pages = 12 }, new ModelFile { Pages = 12, IsDisk = true }];

    public List<List<ModelPage>> Vectors { get; } = [];

    public long Pinned { get; private set; }

    public string Map(string space, int page, int count, int prot, ModelFile? file, int index, bool isShared)
    {
        Unmap(space, page, count);
        // Shared anonymous memory is a file of its own that nobody else can name.
        var backing = file ?? (isShared ? new ModelFile { Pages = count } : null);
        for (var i = 0; i < count; i++)
            Spaces[space][page + i] = new ModelMapping(
                backing, (file is null ? 0 : index) + i, isShared)
            { Prot = prot };
        return "ok";
    }

    public string Unmap(string space, int page, int count)
    {
        for (var i = 0; i < count; i++)
            if (Spaces[space].Remove(page + i, out var mapping)) Drop(mapping);
        return "ok";
    }

    public string Protect(string space, int page, int count, int prot)
    {
        for (var i = 0; i < count; i++)
        {
            if (!Spaces[space].TryGetValue(page + i, out var mapping)) return "ENOMEM";
            mapping.Prot = prot;
        }

        return "ok";
    }

    public string Load(string space, int page, out byte value)
    {
        value = 0;
        var signal = Access(space, page, Read | Write, out var mapping);
        if (signal != "ok") return signal;
        value = ValueOf(mapping!);
        return "ok";
    }

    public string Store(string space, int page, byte value)
    {
        var signal = Access(space, page, Write, out var mapping);
        if (signal != "ok") return signal;
        Writable(mapping!).Value = value;
        return "ok";
    }

    public string Pin(string space, int page, int count, bool write)
    {
        var pages = new List<ModelPage>();
        for (var i = 0; i < count; i++)
        {
            if (!Spaces[space].TryGetValue(page + i, out var mapping) || (mapping.Prot & (write ? Write : Read)) == 0)
                break;
            // A long-term write pin of a file that is written back is refused; so is whatever lies behind the end.
            if (write && mapping is { IsShared: true, File.IsDisk: true }) break;
            if (IsBehindEnd(mapping)) break;
            // A long-term pin makes a private page the process's own first, also when it only reads.
            pages.Add(mapping.IsShared ? mapping.File!.At(mapping.Index) : Writable(mapping));
        }

        if (pages.Count == 0) return "EFAULT";
        foreach (var pinned in pages) pinned.Pins++;
        Pinned += pages.Count;
        Vectors.Add(pages);
        return pages.Count == count ? "ok" : $"partial {pages.Count}";
    }

    public string Unpin(int vector)
    {
        foreach (var page in Vectors[vector]) page.Pins--;
        Pinned -= Vectors[vector].Count;
        Vectors.RemoveAt(vector);
        return "ok";
    }

    public bool IsMapped(string space, int page, int count) =>
        Enumerable.Range(page, count).All(at => Spaces[space].ContainsKey(at));

    public string DontNeed(string space, int page, int count)
    {
        var isWhole = true;
        for (var i = 0; i < count; i++)
        {
            if (!Spaces[space].TryGetValue(page + i, out var mapping))
            {
                isWhole = false;
                continue;
            }

            Drop(mapping);
            mapping.Own = null;
        }

        return isWhole ? "ok" : "ENOMEM";
    }

    public string Move(string space, int from, int to)
    {
        if (from == to) return "EINVAL";
        Spaces[space].TryGetValue(from, out var moving);
        if (moving is null) return "EFAULT";
        Unmap(space, to, 1);
        Spaces[space].Remove(from);
        Spaces[space][to] = moving;
        return "ok";
    }

    public string Fork(string parent, string child)
    {
        var copy = new Dictionary<int, ModelMapping>();
        foreach (var (page, mapping) in Spaces[parent])
        {
            var twin = mapping with { Prot = mapping.Prot };
            if (mapping.Own is { } own)
            {
                // A pinned page stays with the parent: the child gets one of its own at once.
                twin.Own = own.Pins > 0 && own.Maps == 1 ? new ModelPage { Value = own.Value } : own;
                twin.Own.Maps++;
            }

            copy[page] = twin;
        }

        Spaces[child] = copy;
        return "ok";
    }

    public string Exit(string space)
    {
        foreach (var mapping in Spaces[space].Values) Drop(mapping);
        Spaces.Remove(space);
        return "ok";
    }

    public string Truncate(ModelFile file, int pages)
    {
        file.Pages = pages;
        foreach (var index in file.Cache.Keys.Where(index => index >= pages).ToList()) file.Cache.Remove(index);
        foreach (var mapping in Spaces.Values.SelectMany(space => space.Values).Where(
            mapping => mapping.File == file && mapping.Index >= pages))
        {
            Drop(mapping);
            mapping.Own = null;
        }

        return "ok";
    }

    private string Access(string space, int page, int wanted, out ModelMapping? mapping)
    {
        if (!Spaces[space].TryGetValue(page, out mapping)) return "SIGSEGV";
        if ((mapping.Prot & wanted) == 0) return "SIGSEGV";
        return mapping.Own is null && IsBehindEnd(mapping) ? "SIGBUS" : "ok";
    }

    private static bool IsBehindEnd(ModelMapping mapping) =>
        mapping.Own is null && mapping.File is { } file && mapping.Index >= file.Pages;

    private static byte ValueOf(ModelMapping mapping) =>
        mapping.Own?.Value ?? (mapping.File is { } file ? file.At(mapping.Index).Value : (byte)0);

    /// <summary>
    /// The page that a store changes: shared, or the mapping's own, copied off when another mapping has it too.
    /// </summary>
    private static ModelPage Writable(ModelMapping mapping)
    {
        if (mapping.IsShared) return mapping.File!.At(mapping.Index);
        if (mapping.Own is { Maps: 1 } own) return own;
        var fresh = new ModelPage { Value = ValueOf(mapping), Maps = 1 };
        Drop(mapping);
        mapping.Own = fresh;
        return fresh;
    }

    private static void Drop(ModelMapping mapping)
    {
        if (mapping.Own is { } own) own.Maps--;
    }
}
